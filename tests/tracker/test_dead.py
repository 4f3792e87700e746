"""Dead clicks: on something that acts, and within 2.5 s nothing happens."""

import pytest

from tests.tracker.acts import only, so_far
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key

WAIT_S = 2.6


def dead(visit: Visit) -> list[str]:
    """The ids of what was clicked in vain so far."""
    return [event["click_element_id"] for event in so_far(visit, "dead_click")]


DEAD = {
    "button": "<button id=ID>Buy</button>",
    "submit": "<input type=submit id=ID value=Buy>",
    "cancelled link": "<a id=ID href='/next' onclick='event.preventDefault()'>Buy</a>",
    "script link": "<a id=ID href='javascript:void 0'>Buy</a>",
    "role": "<div id=ID role=button>Buy</div>",
    "cursor": "<div id=ID style='cursor: pointer'>Buy</div>",
    "unselects": "<div id=ID style='cursor: pointer' onclick='getSelection().removeAllRanges()'>Buy</div>",
    "lies still": "<button id=ID onclick='scrollTo(scrollX, scrollY)'>Buy</button>",
}


def test_click_that_has_no_effect_is_dead(visit: Visit) -> None:
    ids = [each.replace(" ", "-") for each in DEAD]
    boxes = [f"<div>{markup.replace('ID', name)}</div>" for name, markup in zip(ids, DEAD.values(), strict=True)]
    visit.open("".join(boxes), clock=True)
    for name in ids:
        visit.browser.click(f"#{name}")
        visit.advance(WAIT_S)
    assert ids == dead(visit)


def test_dead_click_is_at_the_time_and_place_of_its_click(visit: Visit) -> None:
    """It comes beside the click, once 2.5 s are over."""
    visit.open("<button id=b class=big>Buy</button>", clock=True)
    visit.browser.click("#b")
    visit.advance(2.3)
    assert [] == dead(visit)
    visit.advance(0.3)
    click, told = only(visit, "click"), only(visit, "dead_click")
    assert click["event_time"][:21] == told["event_time"][:21]
    same = [name for name in click if name.startswith("click_")]
    assert {name: click[name] for name in same} == {name: told[name] for name in same}


def test_what_does_not_act_is_not_dead(visit: Visit) -> None:
    visit.open("<p id=text>Text</p><a id=a>No link</a>", attributes={"on": "heatmap_click"}, clock=True)
    for name in ("#text", "#a"):
        visit.browser.click(name)
        visit.advance(WAIT_S)
    assert [] == dead(visit)


def test_same_element_clicked_again_meanwhile_is_one_dead_click(visit: Visit) -> None:
    visit.open("<button id=b>Buy</button> <button id=c>Buy</button>", clock=True)
    for name in ("#b", "#b", "#c"):
        visit.browser.click(name)
        visit.advance(0.5)
    visit.advance(WAIT_S)
    visit.browser.click("#b")
    visit.advance(WAIT_S)
    # In an engine that focuses what is clicked, the click on #c has moved the focus, which is an effect for #b.
    assert dead(visit) in (["b", "c", "b"], ["c", "b"])


def test_each_click_in_vain_is_told_also_within_a_burst(visit: Visit) -> None:
    visit.open("<button id=b>Buy</button>", clock=True)
    visit.browser.click("#b", times=3)
    visit.advance(WAIT_S)
    assert ["rage_click", "dead_click"] == [event["event_type"] for event in so_far(visit, "dead_click", "rage_click")]


# Each handler has `box`, an element, `root`, the shadow root that the button is in, and `later`, which waits 2 s.
EFFECTS = {
    "attribute": "box.className = 'open'",
    "text": "box.firstChild.data = 'Sold'",
    "child": "box.append('Sold')",
    "late": "later(() => box.append('Sold'))",
    "style": "box.style.color = 'red'",
    "scroll": "scrollTo(0, 50)",
    "inner-scroll": "document.querySelector('#scroller').scrollTop += 20",
    "selection": "getSelection().selectAllChildren(box)",
    "focus": "document.querySelector('#field').focus()",
    "push": "history.pushState(1, '', '/two')",
    "hash": "location.hash = 'part'",
    "request": "fetch('/data').then(r => r.text()).then(() => window.fetched = true)",
    "xhr": "const x = new XMLHttpRequest(); x.open('GET', '/data'); x.onload = () => window.fetched = true; x.send()",
    "image": "{ const i = new Image(); i.onload = i.onerror = () => window.fetched = true; i.src = '/data'; }",
    "dialog": "{ const d = document.querySelector('dialog'); d.showModal(); d.onclose = 0; d.close(); }",
    "popover": "box.popover = 'auto', box.showPopover(), box.hidePopover()",
    "alert": "alert('Sold out')",
    "form": "document.querySelector('form').requestSubmit()",
    "copied": "getSelection().selectAllChildren(box), document.execCommand('copy')",
}


@pytest.mark.parametrize("name", EFFECTS)
def test_click_with_an_effect_is_not_dead(visit: Visit, name: str) -> None:
    visit.serve("/data", "{}", content_type="application/json")
    visit.open(
        "<button id=b>Buy</button> <div id=box>Text</div> <dialog>Sold out</dialog> <input id=field>"
        "<div id=scroller style='height: 40px; overflow: auto'><div style='height: 400px'></div></div>"
        "<form><input name=x></form><div style='height: 3000px'></div>"
        "<script>window.later = run => setTimeout(run, 2000); box = document.querySelector('#box');"
        "document.querySelector('form').onsubmit = () => false;"
        f"document.querySelector('#b').onclick = () => {{ {EFFECTS[name]} }}</script>",
        clock=True,
    )
    visit.browser.click("#b")
    if name == "alert":
        visit.browser.accept_alert()
    if "fetched" in EFFECTS[name]:
        visit.until("window.fetched")
    visit.settle()  # scrolling is told with the next frame
    visit.advance(WAIT_S)
    assert [] == dead(visit)


def test_change_inside_of_shadow_roots_is_an_effect(visit: Visit) -> None:
    visit.open(
        "<div id=host></div><script>"
        "const outer = document.querySelector('#host').attachShadow({mode: 'open'}); outer.innerHTML = '<div></div>';"
        "const inner = outer.firstChild.attachShadow({mode: 'open'});"
        "inner.innerHTML = '<button id=b>Buy</button><button id=c>Buy</button><button id=d>Buy</button>';"
        "inner.querySelector('#b').onclick = e => { e.target.textContent = 'Sold'; };"
        "inner.querySelector('#c').onclick = () => outer.append('Sold');"
        "window.find = name => inner.querySelector(name);</script>",
        clock=True,
    )
    for name in ("#b", "#c", "#d"):
        visit.browser.click(visit.browser.run("return window.find(arguments[0])", name))
        visit.advance(WAIT_S)
    assert ["d"] == dead(visit)


# These act, and from inside the page nothing is to be seen of it.
QUIET = {
    "select": "<select id=ID><option>One<option>Two</select>",
    "checkbox": "<input type=checkbox id=ID>",
    "radio": "<input type=radio id=ID checked>",
    "label": "<label id=ID for=nothing>Label</label>",
    "text": "<input id=ID>",
    "area": "<textarea id=ID></textarea>",
    "date": "<input type=date id=ID>",
    "details": "<details><summary id=ID>More</summary>Text</details>",
    "mail:": "<a id=ID href='mailto:jo@shop.example'>Mail</a>",
    "phone:": "<a id=ID href='tel:+493012345'>Call</a>",
    "app:": "<a id=ID href='shop-app:open'>App</a>",
    "download": "<a id=ID href='/file.bin' download>File</a>",
    "css": "<label><input type=checkbox id=ID hidden> <span style='cursor: pointer'>Menu</span></label>",
}


# Takes the place of the navigation, and hides from the tracker that it was cancelled.
STAND_IN = """<script>addEventListener("click", e => {
  e.preventDefault();
  Object.defineProperty(e, "defaultPrevented", {value: false});
})</script>"""


@pytest.mark.parametrize("name", QUIET)
def test_what_acts_unseen_is_not_dead(visit: Visit, name: str) -> None:
    visit.download("/file.bin")
    markup = f"<div id=box>{QUIET[name].replace('ID', 'b')}</div>"
    visit.open(markup + (STAND_IN if name.endswith(":") else ""), clock=True)
    visit.browser.click("#box span" if name == "css" else "#b")
    visit.advance(WAIT_S)
    assert [] == dead(visit)


# Each leads to /slow, which takes longer than a dead click.
SLOW = {
    "link": "<a id=b href='/slow'>Slow page</a>",
    "svg link": "<svg width=50 height=20><a xlink:href='/slow'><rect id=b width=50 height=20 /></a></svg>",
    "submit": "<form action=/slow method=post><input name=x><button id=b>Send</button></form>",
    "form.submit()": "<form action=/slow></form><button id=b onclick='document.forms[0].submit()'>Go</button>",
    "location": "<button id=b onclick='location = \"/slow\"'>Go</button>",
}


@pytest.mark.parametrize("markup", SLOW.values(), ids=SLOW)
def test_what_leads_to_a_slow_page_is_not_dead(visit: Visit, markup: str) -> None:
    if "location" in markup:
        visit.needs("navigation")
    visit.serve("/slow", "<!doctype html><title>Slow</title>", delay_s=0.5)
    # The driver waits for the slow page, so the page itself puts its clock forward.
    hurry = "<script>addEventListener('click', () => requestAnimationFrame(() => advanceClock(2600)))</script>"
    visit.open(markup + hurry, clock=True)
    visit.browser.click("#b")
    visit.wait("exit")
    assert [] == visit.events("dead_click")


def test_link_in_a_new_window_is_not_dead(visit: Visit) -> None:
    visit.serve("/next", "<!doctype html><title>Next</title>")
    visit.open("<a id=b href='/next' target=_blank>Next</a>", clock=True)
    visit.browser.click("#b")
    visit.wait_for_windows(1)
    visit.advance(WAIT_S)
    assert [] == dead(visit)


def test_modified_click_opens_elsewhere_and_is_not_dead(visit: Visit) -> None:
    visit.open("<button id=b>Buy</button>", clock=True)
    for key in (Key.CONTROL, Key.SHIFT):
        visit.browser.click("#b", keys=key)
        visit.advance(WAIT_S)
    assert [] == dead(visit)


def test_page_that_is_left_meanwhile_has_no_dead_click(visit: Visit) -> None:
    visit.open("<button id=b>Buy</button>")
    visit.browser.click("#b")
    visit.leave()
    visit.wait("exit")
    assert [] == visit.events("dead_click")


def test_observers_run_only_while_a_click_waits(visit: Visit) -> None:
    count = """
    window.running = new Set();
    for (const name of ["MutationObserver", "PerformanceObserver"]) {
      const {observe, disconnect} = window[name].prototype;
      window[name].prototype.observe = function (...of) {
        if (name === "MutationObserver" || of[0].type === "resource") window.running.add(this);
        return observe.apply(this, of);
      };
      window[name].prototype.disconnect = function () { window.running.delete(this); return disconnect.apply(this); };
    }
    """
    buttons = "<button id=b>Buy</button> <button id=c onclick='this.append(1)'>Buy</button>"
    visit.open(f"{buttons} <p id=text>Text", before=count, clock=True)
    running = "return window.running.size"
    assert 0 == visit.browser.run(running)
    visit.browser.click("#text")
    assert 0 == visit.browser.run(running)
    visit.browser.click("#b")
    assert 2 == visit.browser.run(running)
    visit.advance(WAIT_S)
    assert 0 == visit.browser.run(running)
    visit.browser.click("#c")
    assert 0 == visit.browser.run(running)
    assert ["b"] == dead(visit)
