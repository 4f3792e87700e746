"""Rage clicks: three or more, each less than 1 s and 30 px from the last, told once the burst has ended."""

import pytest

from tests.tracker.acts import CLICKS, only, so_far
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key, Point

BOX = "<div id=box style='width: 300px; height: 60px; background: #ccc; user-select: none; -webkit-user-select: none'>"


def burst(visit: Visit, *at: Point, on: str = "#box", apart_s: float = 0.0) -> None:
    """Click at these offsets from the middle of an element."""
    for n, offset in enumerate(at):
        if n and apart_s:
            visit.advance(apart_s)
        visit.browser.click(on, offset=offset)


def end(visit: Visit) -> None:
    """The burst is over."""
    visit.advance(1.1)


@pytest.mark.parametrize("count", [3, 5])
def test_burst_is_one_rage_click_beside_its_clicks(visit: Visit, count: int) -> None:
    visit.open("<button id=box>Buy</button>", clock=True)
    burst(visit, *[(0, 0)] * count)
    assert [] == so_far(visit, "rage_click"), "it has not ended"
    end(visit)
    event = only(visit, "rage_click")
    assert (count, "box", "Buy") == (event["click_count"], event["click_element_id"], event["click_element_text"])
    assert count == len(so_far(visit, *CLICKS))


def test_rage_click_is_at_the_time_and_place_of_the_last_click(visit: Visit) -> None:
    visit.open("<button id=box style='width: 200px; height: 60px'>Buy</button>", clock=True)
    burst(visit, (0, 0), (10, 5), (20, -5))
    end(visit)
    names = ("event_time", "click_x", "click_y")
    last = so_far(visit, "click")[-1]
    assert [last[name] for name in names[1:]] == [only(visit, "rage_click")[name] for name in names[1:]]
    assert last["event_time"][:21] == only(visit, "rage_click")["event_time"][:21]


@pytest.mark.parametrize(
    ("offsets", "apart_s", "count"),
    [
        ([(0, 0), (0, 0)], 0, None),
        ([(0, 0), (28, 0), (56, 0)], 0, 3),
        ([(0, 0), (31, 0), (62, 0)], 0, None),
        ([(0, 0), (22, 22), (44, 0)], 0, None),
        ([(0, 0), (0, 0), (0, 0)], 0.4, 3),
        ([(0, 0), (0, 0), (0, 0)], 1.05, None),
        ([(-100, 0), (-100, 0), (100, 0), (100, 0)], 0, None),
        ([(-100, 0), (100, 0), (-100, 0), (100, 0)], 0, None),
        ([(-100, 0), (100, 0), (100, 0), (100, 0)], 0, 3),
    ],
    ids=["two", "near", "far", "far diagonally", "soon", "late", "two and two", "to and fro", "one, then three"],
)
def test_three_clicks_near_and_soon_are_a_burst(
    visit: Visit, offsets: list[Point], apart_s: float, count: int | None
) -> None:
    """Also on what does not act: a visitor may expect it to."""
    visit.open(BOX, clock=True)
    burst(visit, *offsets, apart_s=apart_s)
    end(visit)
    assert [count] * (count is not None) == [event["click_count"] for event in so_far(visit, "rage_click")]


def test_two_bursts_are_two_rage_clicks(visit: Visit) -> None:
    visit.open(BOX, clock=True)
    burst(visit, *[(-100, 0)] * 3, *[(100, 0)] * 4)
    end(visit)
    assert [3, 4] == [event["click_count"] for event in so_far(visit, "rage_click")]


def test_burst_is_told_when_the_page_is_left_in_it(visit: Visit) -> None:
    visit.open(BOX)
    burst(visit, *[(0, 0)] * 3)
    visit.leave()
    assert 3 == visit.first("rage_click")["click_count"]


# Clicked again and again on purpose.
ON_PURPOSE = {
    "text field": "<input id=box value='one two'>",
    "textarea": "<textarea id=box>one two</textarea>",
    "editable": "<div id=box contenteditable>one two</div>",
    "text": "<p id=box>One paragraph of text",
    "number": "<input id=box type=number value=1>",
    "range": "<input id=box type=range>",
    "spinbutton": "<div role=spinbutton id=box style='user-select: none'>7</div>",
    "plus": "<button id=box>+</button>",
    "minus": "<button id=box>\N{MINUS SIGN}</button>",
    "arrow": "<button id=box><span>\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}</span></button>",
    "next": "<button id=box>Next</button>",
    "previous": "<button id=box aria-label='Previous month'><svg width=9 height=9></svg></button>",
    "increase": "<button id=box aria-label='Increase quantity'>+</button>",
    "decrease": "<button id=box aria-label='Decrease quantity'>-</button>",
}


@pytest.mark.parametrize("markup", ON_PURPOSE.values(), ids=ON_PURPOSE)
def test_fields_selections_and_steppers_are_clicked_on_purpose(visit: Visit, markup: str) -> None:
    visit.open(markup, clock=True)
    visit.browser.click("#box", times=3)
    end(visit)
    assert [] == so_far(visit, "rage_click")


# What a visitor waits for in vain, though it may look like a stepper.
IN_VAIN = ["Add to cart", "Moreover", "Добавить", "买", "購入", "1", "\N{GRINNING FACE} OK"]


def test_other_buttons_are_clicked_in_rage_whatever_their_language(visit: Visit) -> None:
    visit.open("".join(f"<p><button id=b{n}>{text}</button>" for n, text in enumerate(IN_VAIN)), clock=True)
    for n in range(len(IN_VAIN)):
        visit.browser.click(f"#b{n}", times=3)
        end(visit)
    assert IN_VAIN == [event["click_element_text"] for event in so_far(visit, "rage_click")]


def test_keys_are_no_clicks_in_rage(visit: Visit) -> None:
    """Enter that is held down repeats."""
    visit.open("<button id=box>Buy</button>", clock=True)
    visit.browser.run("document.querySelector('#box').focus()")
    visit.browser.press(Key.ENTER * 4)
    end(visit)
    assert [] == so_far(visit, "rage_click")
    assert 4 == len(so_far(visit, "click"))
