"""Copies: that something was copied, and what only where the page allows it."""

import pytest

from tests.tracker.acts import only, so_far
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key


def copy(visit: Visit, select: str = "getSelection().selectAllChildren(document.querySelector('#text'))") -> None:
    """Select something, and press the keys."""
    visit.browser.run(select)
    visit.browser.press("c", hold=Key.CONTROL)


def test_copy_tells_where_and_not_what(visit: Visit) -> None:
    visit.open("<main><p id=text class=lead>Some words</p></main>")
    copy(visit)
    event = only(visit, "copy")
    assert ("p", "text", "lead", "p#text") == tuple(
        event[f"click_element{part}"] for part in ("_tag", "_id", "_class", "")
    )
    assert event["copied_text"] is None
    assert event["click_element_text"] is None


TEXTS = [
    ("<p data-copied-text id=text>Some words</p>", "Some words"),
    ("<div data-copied-text><p id=text>Some\n <b>words</b></p></div>", "Some words"),
    ("<p data-copied-text id=text>Ask jo@shop.example or 0171 234 5678</p>", "Ask *** or ***"),
    (f"<p data-copied-text id=text>{'word ' * 100}</p>", ("word " * 40)[:200]),
    ("<p data-copied-text id=text>" + "\N{GRINNING FACE}" * 201 + "</p>", "\N{GRINNING FACE}" * 200),
    (f"<p data-copied-text id=text>{'a' * 195} jo@shop.example</p>", "a" * 195 + " ***"),
]


@pytest.mark.parametrize(
    ("markup", "expected"), TEXTS, ids=["itself", "ancestor", "masked", "cut", "code points", "masked first"]
)
def test_text_is_told_where_the_page_allows_it(visit: Visit, markup: str, expected: str) -> None:
    visit.open(markup)
    copy(visit)
    assert expected == only(visit, "copy")["copied_text"]


SELECT = "getSelection().selectAllChildren(document.querySelector('#text'))"
FIELD = "const f = document.querySelector('#text'); f.focus(); f.select()"
SECRET = {
    "text field": ("<input id=text value=secret>", FIELD),
    "textarea": ("<textarea id=text>secret</textarea>", FIELD),
    "editable": ("<div id=text contenteditable>secret</div>", SELECT),
    "inside of an editable": ("<div contenteditable><p id=text>secret</p></div>", SELECT),
    "private": ("<p id=text data-private>secret</p>", SELECT),
    "inside of private": ("<div data-private><p id=text>secret</p></div>", SELECT),
    "private within": ("<div id=text>Some <b data-private>secret</b> words</div>", SELECT),
    "private begun": (
        "<div><b data-private id=p>secret</b> <i id=q>words</i></div>",
        "getSelection().setBaseAndExtent(document.querySelector('#p').firstChild, 1, document.querySelector('#q'), 1)",
    ),
    "editable within": ("<div id=text>Some <b contenteditable>secret</b> words</div>", SELECT),
    "field within": ("<div id=text>Some <textarea>secret</textarea> words</div>", SELECT),
    "beyond": ("</div><p id=text>secret</p><div>", SELECT),
    "upwards": (
        "<p id=p>words</p></div><p id=text>secret</p><div>",
        "getSelection().setBaseAndExtent(document.querySelector('#text'), 0, document.querySelector('#p'), 0)",
    ),
    "second range": (
        "<p id=p>words</p><p data-private id=text>secret</p>",
        "for (const name of ['#p', '#text']) { const range = document.createRange();"
        "range.selectNodeContents(document.querySelector(name)); getSelection().addRange(range); }",
    ),
    "private in a shadow root": (
        "<div id=text>Some <span id=host></span> words</div>",
        "document.querySelector('#host').attachShadow({mode: 'open'}).innerHTML = '<b data-private>secret</b>';"
        + SELECT,
    ),
}


@pytest.mark.parametrize("name", SECRET)
def test_text_is_never_told_of_fields_and_of_what_is_private(visit: Visit, name: str) -> None:
    markup, select = SECRET[name]
    visit.open(f"<div data-copied-text>{markup}</div>")
    copy(visit, select)
    assert "secret" not in str(only(visit, "copy"))


def test_cut_is_no_copy(visit: Visit) -> None:
    visit.open("<input id=text value=secret>")
    visit.browser.run(FIELD)
    visit.browser.press("x", hold=Key.CONTROL)
    assert [] == so_far(visit, "copy")


def test_page_cannot_hide_or_break_a_copy(visit: Visit) -> None:
    visit.open(
        "<p id=text>Some words</p><script>window.seen = [];"
        "document.addEventListener('copy', e => { seen.push(e.defaultPrevented); e.stopImmediatePropagation(); }, true)"
        "</script>"
    )
    copy(visit)
    visit.wait("copy")
    assert [False] == visit.browser.run("return window.seen")
