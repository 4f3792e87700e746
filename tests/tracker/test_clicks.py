"""Clicks: one row for each, of the most specific type, with all that is known of it."""

from typing import Any

import pytest

from tests.tracker.acts import CLICKS, STAY, only, so_far
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key

# What is clicked, the type that is sent, and its target.
KINDS: list[tuple[str, str, str | None]] = [
    ("<a href='mailto:jo@shop.example?subject=Hi&body=Ho'>Mail</a>", "email_click", "mailto:jo@shop.example"),
    ("<a href='MAILTO:jo@shop.example'>Mail</a>", "email_click", "mailto:jo@shop.example"),
    ("<a href='tel:+49-30-123456'>Call</a>", "phone_click", "tel:+49-30-123456"),
    ("<a href='sms:+4930123456?body=Hi'>Text</a>", "phone_click", "sms:+4930123456"),
    ("<a href='/list?id=7' download='List.CSV'>List</a>", "file_download", "/list"),
    ("<a href='/files/Price%20list.PDF?v=2#page=3'>Prices</a>", "file_download", "/files/Price%20list.PDF"),
    ("<a href='https://other.example/a/b.zip?key=1'>Archive</a>", "file_download", "https://other.example/a/b.zip"),
    ("<a href='https://other.example/a?q=1#x'>Other</a>", "outbound_link", "https://other.example/a"),
    ("<a href='//other.example'>Other</a>", "outbound_link", "http://other.example/"),
    ("<a href='/next?q=1'>Next</a>", "click", "/next"),
    ("<a href='#part'>Part</a>", "click", "/"),
    ("<a href='/a.pdf/more'>More</a>", "click", "/a.pdf/more"),
    ("<a href='javascript:void 0'>Script</a>", "click", None),
    ("<a href='https://['>Broken</a>", "click", None),
    ("<button>Button</button>", "click", None),
    ("<input type=submit value=Send>", "click", None),
    ("<input type=checkbox>", "click", None),
    ("<details><summary>More</summary></details>", "click", None),
    ("<div role=button>Role</div>", "click", None),
    ("<div role=menuitemradio>Role</div>", "click", None),
    ("<div onclick='void 0'>Handler</div>", "heatmap_click", None),
    ("<div style='cursor: pointer'>Cursor</div>", "click", None),
    ("<p>Text</p>", "heatmap_click", None),
    ("<a>No link</a>", "heatmap_click", None),
    ("<input type=text>", "heatmap_click", None),
]


def test_one_click_is_one_row_of_the_most_specific_type(visit: Visit) -> None:
    boxes = "".join(f"<div id=k{n} style='width: max-content'>{each[0]}</div>" for n, each in enumerate(KINDS))
    visit.open(boxes + STAY, attributes={"on": "heatmap_click"})
    for n in range(len(KINDS)):
        visit.browser.click(f"#k{n} *")
    expected = [
        (markup, kind, visit.origin() + target if target and target.startswith("/") else target)
        for markup, kind, target in KINDS
    ]
    told = [(event["event_type"], event.get("click_target_url")) for event in so_far(visit, *CLICKS)]
    assert expected == [(each[0], *event) for each, event in zip(KINDS, told, strict=True)]


def test_heatmap_click_is_off_by_default(visit: Visit) -> None:
    visit.open("<p id=text>Text</p>")
    visit.browser.click("#text")
    assert [] == so_far(visit, *CLICKS)


@pytest.mark.parametrize("script", ["", "scrollTo(400, 1000)"], ids=["at the top", "scrolled"])
def test_coordinates_are_css_pixels_of_the_document(visit: Visit, script: str) -> None:
    """With the mouse where it was; with the keyboard the middle of the element."""
    visit.open(
        "<button id=b style='position: absolute; left: 650px; top: 1200px; width: 100px; height: 40px'>Buy</button>"
        "<div style='width: 3000px; height: 5000px'></div>"
    )
    visit.browser.run(script)
    visit.browser.click("#b", offset=(30, -10))
    visit.browser.press(Key.ENTER)
    assert [(730, 1210), (700, 1220)] == [(each["click_x"], each["click_y"]) for each in visit.wait("click", 2)]


def test_click_tells_what_was_clicked(visit: Visit) -> None:
    visit.open(
        "<main><section class='offers wide'><div><div><form><div class=row></div><div class='row last'>"
        "<button id=order-20261130 class='big red'>\n  Buy  <b id=in>now</b>\n</button>"
        f"</form></div></div></section></main>{STAY}"
    )
    visit.browser.click("#in")
    event = only(visit, "click")
    expected = {
        "click_element": "div>div>form>div.row:nth-of-type(2)>button.big",
        "click_element_tag": "button",
        "click_element_id": "order-***",
        "click_element_class": "big red",
        "click_element_text": "Buy now",
        "click_count": 1,
        "visible": True,
    }
    assert expected == {name: event[name] for name in expected}


SELECTORS = [
    ("<div id=box><p><button>Go</button></p></div>", "div#box>p>button"),
    ("<div id=box-123><button>Go</button></div>", "div#box-123>button"),
    ("<div id=n1><div id=box-1234><button>Go</button></div></div>", "div#n1>div>button"),
    ("<x-y id=n2><button>No</button><i></i><button class='a b'>Go</button></x-y>", "x-y#n2>button.a:nth-of-type(2)"),
    ("<i id=n3><b><b><b><b><b><button>Go</button></b></b></b></b></b></i>", "b>b>b>b>button"),
    ("<div id=n4><o:p><button>Go</button></o:p></div>", "div#n4>o:p>button"),
]


def test_selector_has_five_levels_and_no_ids_that_differ_for_each_page(visit: Visit) -> None:
    visit.open("".join(f"<section id=s{n}>{markup}</section>" for n, (markup, _) in enumerate(SELECTORS)))
    for n in range(len(SELECTORS)):
        visit.browser.click(visit.browser.run(f"return [...document.querySelectorAll('#s{n} button')].pop()"))
    assert [selector for _, selector in SELECTORS] == [each["click_element"] for each in so_far(visit, "click")]


TEXTS = [
    ("<button aria-label='Close the window'>X</button>", "Close the window"),
    ("<input type=submit value='Send it'>", "Send it"),
    ("<button type=submit value=7>Send it</button>", "Send it"),
    ("<button type=button>Open it</button>", "Open it"),
    ("<input type=checkbox value=secret>", None),
    ("<button><svg width=9 height=9></svg></button>", None),
    ("<button>Mail jo@shop.example or 0171 234 5678</button>", "Mail *** or ***"),
    (f"<button>{'ab ' * 60}</button>", ("ab " * 34)[:100]),
    ("<button>" + "\N{GRINNING FACE}" * 120 + "</button>", "\N{GRINNING FACE}" * 100),
    ("<label>Colour <select><option>secret</select></label>", "Colour"),
    ("<button>Hello <span data-private>Jo</span></button>", "Hello"),
    ("<button>Go<script>// secret</script><style>b{}</style></button>", "Go"),
]


def test_text_is_of_what_acts_masked_and_at_most_100_code_points(visit: Visit) -> None:
    visit.open("".join(f"<div id=t{n}>{markup}</div>" for n, (markup, _) in enumerate(TEXTS)) + STAY)
    for n in range(len(TEXTS)):
        box = visit.browser.run(f"return document.querySelector('#t{n} > *')")
        visit.browser.click(box, offset=(-int(visit.browser.run("return arguments[0].offsetWidth / 2 - 4", box)), 0))
    assert [text for _, text in TEXTS] == [each["click_element_text"] for each in so_far(visit, "click")]


def test_click_count_is_that_of_the_browser(visit: Visit) -> None:
    visit.open("<button id=b>Buy</button>")
    visit.browser.double_click("#b")
    assert [1, 2] == [each["click_count"] for each in visit.wait("click", 2)]


def test_private_element_tells_its_tag_and_place_only(visit: Visit) -> None:
    visit.open("<div data-private><a id=jo class=jo href='https://other.example/jo' title=jo>Jo</a></div>" + STAY)
    visit.browser.click("#jo")
    event = only(visit, *CLICKS)
    told = {name for name, value in event.items() if name.startswith("click") and value is not None}
    assert {"click_x", "click_y", "click_count", "click_element_tag"} == told
    assert ("outbound_link", "a") == (event["event_type"], event["click_element_tag"])


SHADOW = """
<div id=host></div>
<script>
  const root = document.querySelector("#host").attachShadow({mode: "MODE"});
  root.innerHTML =
    "<p><button id=inner class=deep><b>Deep</b></button> <a id=out href='https://other.example/'>Out</a>";
  window.find = name => root.querySelector(name);
</script>
"""


def test_click_in_an_open_shadow_root_is_told_of_its_element(visit: Visit) -> None:
    visit.open(SHADOW.replace("MODE", "open") + STAY)
    for name in ("b", "a"):
        visit.browser.click(visit.browser.run("return window.find(arguments[0])", name))
    assert [
        ("click", "button", "inner", "deep", "Deep", None),
        ("outbound_link", "a", "out", None, "Out", "https://other.example/"),
    ] == [
        (
            each["event_type"],
            *(each[f"click_element_{part}"] for part in ("tag", "id", "class", "text")),
            each.get("click_target_url"),
        )
        for each in so_far(visit, *CLICKS)
    ]


def test_click_in_a_closed_shadow_root_is_one_on_its_host(visit: Visit) -> None:
    visit.open(SHADOW.replace("MODE", "closed"), attributes={"on": "heatmap_click"})
    visit.browser.click(visit.browser.run("return window.find('b')"))
    assert ("heatmap_click", "host") == tuple(only(visit, *CLICKS)[name] for name in ("event_type", "click_element_id"))


INSIDE = [
    ("<button id=a><span><i class=in>Go</i></span></button>", "a"),
    ("<div id=b role=button><i class=in>Go</i></div>", "b"),
    ("<div id=c style='cursor: pointer'><p><i class=in>Go</i></p></div>", "c"),
    ("<a id=d href='#d'><div><i class=in>Go</i></div></a>", "d"),
    ("<a id=e href='#e'><span style='cursor: pointer'><i class=in>Go</i></span></a>", "e"),
]


def test_click_inside_of_what_acts_is_a_click_on_that(visit: Visit) -> None:
    visit.open("".join(f"<div>{markup}</div>" for markup, _ in INSIDE))
    for _, name in INSIDE:
        visit.browser.click(f"#{name} .in")
    assert [name for _, name in INSIDE] == [each["click_element_id"] for each in so_far(visit, *CLICKS)]


LABELS = """
<div><label id=wrapping>Wrapping <input id=one type=checkbox></label></div>
<div><label id=beside for=two>Beside</label> <input id=two type=checkbox></div>
"""


@pytest.mark.parametrize(("label", "field"), [("#wrapping", "#one"), ("#beside", "#two")], ids=["wrapping", "for="])
def test_label_with_its_field_is_one_click(visit: Visit, label: str, field: str) -> None:
    """The browser clicks the field, too. A click on the field itself counts, however often."""
    visit.open(LABELS)
    at: dict[str, Any] = {"offset": (-20, 0)} if label == "#wrapping" else {}
    visit.browser.click(label, **at)
    visit.browser.click(field)
    visit.browser.click(field)
    visit.browser.click(label, **at)
    visit.browser.click(label, **at)
    visit.browser.press(Key.SPACE)
    assert ["label", "input", "input", "label", "label"] == [e["click_element_tag"] for e in so_far(visit, *CLICKS)][:5]


def test_field_counts_after_its_label_was_clicked_in_vain(visit: Visit) -> None:
    """A label that the page cancels, and one with a link in it, click no field."""
    visit.open(
        "<label onclick='event.preventDefault()' for=one id=l1>Cancelled</label> <input id=one type=checkbox>"
        "<label id=l2>I agree to <a id=terms href='#terms'>the terms</a></label> <input type=checkbox id=two>"
        "<script>document.querySelector('#l2').htmlFor = 'two'</script>"
    )
    for name in ("#l1", "#one", "#terms", "#two"):
        visit.browser.click(name)
    assert ["l1", "one", "terms", "two"] == [each["click_element_id"] for each in so_far(visit, *CLICKS)]


@pytest.mark.parametrize("what", ["stopImmediatePropagation()", "preventDefault()"], ids=["stopped", "prevented"])
def test_page_cannot_hide_a_click(visit: Visit, what: str) -> None:
    page = f"<script>document.addEventListener('click', e => e.{what}, true)</script>"
    visit.open(f"<button id=b>Buy</button> <a id=out href='https://other.example/'>Out</a> {STAY}", head=page)
    visit.browser.run("document.querySelector('#out').addEventListener('click', e => e.preventDefault())")
    visit.browser.click("#b")
    if "prevent" in what:
        visit.browser.click("#out")
    assert ["click", "outbound_link"][: 1 + ("prevent" in what)] == [e["event_type"] for e in so_far(visit, *CLICKS)]


def test_page_hears_its_clicks_as_without_the_tracker(visit: Visit) -> None:
    visit.open(
        "<button id=b>Buy</button> <a id=a href='https://other.example/'>Out</a><script>window.seen = [];"
        "for (const at of [window, document, document.querySelector('#b'), document.querySelector('#a')])"
        "at.addEventListener('click', e => { seen.push(e.defaultPrevented); if (at === window) e.preventDefault(); })"
        "</script>"
    )
    for name in ("#b", "#a"):
        visit.browser.click(name)
    visit.wait("outbound_link")
    assert [False] * 6 == visit.browser.run("return window.seen")


def test_click_by_a_script_is_none_of_the_visitors(visit: Visit) -> None:
    visit.open("<button id=b>Buy</button> <a id=a href='https://other.example/'>Out</a>" + STAY)
    visit.browser.run("for (const name of ['#b', '#a']) document.querySelector(name).click()")
    assert [] == so_far(visit, *CLICKS)


def test_click_in_a_frame_is_told_by_the_tracker_in_the_frame(visit: Visit) -> None:
    visit.page("<button id=b>Buy</button>", "/plain", tracker=False)
    visit.page("<button id=b>Buy</button>", "/tracked")
    visit.open("<iframe id=plain src=/plain></iframe> <iframe id=tracked src=/tracked></iframe>")
    for name in ("#plain", "#tracked"):
        with visit.browser.frame(name):
            visit.browser.click("#b")
    visit.wait("click")
    assert ["/tracked"] == [event["page_path"] for event in so_far(visit, *CLICKS)]
