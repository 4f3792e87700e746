"""Engaged time, and the heartbeats that go by it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.tracker.visits import Visit
from tests.tracker.webdriver import Browser

LONG = "<div style='height: 4000px'></div>"
# Real time goes on beneath the page's clock: a step of a test takes about 0.1 s.
SLACK_S = 2.0


def start(visit: Visit, body: str = "", **page: Any) -> None:
    visit.open(body, clock=True, **page)
    visit.wait("pageview")


def active(visit: Visit, seconds: float) -> None:
    """Let the time go by with an input every 20 s, less than the 30 s after which a visitor is idle."""
    while seconds > 0:
        visit.browser.press("a")
        visit.advance(min(20, seconds))
        seconds -= 20


def times(visit: Visit) -> tuple[float, float]:
    """Leave, and return `time_on_page` and `engaged_time` of the exit."""
    visit.leave()
    sent = visit.first("exit")
    return sent["time_on_page"], sent["engaged_time"]


def about(*seconds: float) -> Any:
    return pytest.approx(seconds, abs=SLACK_S)


# Engaged time


def test_active_time_is_engaged(visit: Visit) -> None:
    start(visit)
    active(visit, 60)
    assert about(60, 60) == times(visit)


def test_idle_visitor_is_not_engaged(visit: Visit) -> None:
    """30 s after the last input the time stops; the next input lets it go on."""
    start(visit)
    visit.browser.press("a")
    visit.advance(100)
    visit.browser.press("a")
    visit.advance(10)
    assert about(110, 40) == times(visit)


def test_idle_visitor_who_leaves_was_engaged_for_30_s(visit: Visit) -> None:
    start(visit)
    visit.advance(100)
    assert about(100, 30) == times(visit)


INPUTS: dict[str, Callable[[Browser], None]] = {
    "key": lambda browser: browser.press("a"),
    "pointer": lambda browser: browser.move((50, 60)),
    "button": lambda browser: browser.click(),
    "wheel": lambda browser: browser.wheel(40),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_input_keeps_a_visitor_engaged(visit: Visit, kind: str) -> None:
    start(visit, LONG)
    visit.browser.move((40, 40))
    visit.advance(25)
    INPUTS[kind](visit.browser)
    visit.settle()
    visit.advance(25)
    assert about(50, 50) == times(visit)


def test_hidden_page_is_not_engaged(visit: Visit) -> None:
    start(visit)
    visit.advance(10)
    visit.browser.run("document.hasFocus = () => true")  # as where a window that is covered keeps it
    with visit.hidden():
        visit.advance(1000)
    visit.browser.press("a")
    visit.advance(5)
    assert pytest.approx((1015, 15), abs=2 * SLACK_S) == times(visit)


def test_page_without_the_focus_is_not_engaged(visit: Visit) -> None:
    """As a window behind another one is, though its page is visible."""
    start(visit)
    visit.advance(10)
    visit.browser.run("document.hasFocus = () => false; dispatchEvent(new Event('blur'))")
    active(visit, 100)
    visit.browser.run("delete document.hasFocus; dispatchEvent(new Event('focus'))")
    visit.advance(5)
    assert about(115, 15) == times(visit)


def test_page_whose_frame_has_the_focus_is_engaged(visit: Visit) -> None:
    """The window is told of a blur, but its visitor is still on the page. In Firefox, the next input shows it."""
    visit.page("<input id=inner>", "/frame", tracker=False)
    start(visit, "<iframe id=frame src='/frame'></iframe>")
    visit.advance(10)
    visit.browser.click("#frame")
    visit.until("document.activeElement.id === 'frame' && document.hasFocus()")
    visit.browser.move((300, 300))
    visit.browser.move((400, 400))
    visit.settle()
    visit.advance(10)
    assert about(20, 20) == times(visit)


def test_tab_in_front_stops_engaged_time(visit: Visit) -> None:
    visit.needs("tabs")
    start(visit)
    visit.advance(10)
    with visit.browser.other_window():
        pass
    visit.until("document.visibilityState === 'visible'")
    with visit.hidden():
        visit.advance(100)
    told = visit.events("time_on_page")[-1]
    assert about(10) == (told["engaged_time"],)


@pytest.mark.parametrize("seconds", [0.0, 0.0105, 1.9996, 7.77])
def test_engaged_time_never_exceeds_time_on_page(visit: Visit, seconds: float) -> None:
    """Both have three decimals, so rounding must not lift one over the other."""
    start(visit)
    visit.advance(seconds)
    on_page, engaged = times(visit)
    assert engaged <= on_page
    assert [on_page, engaged] == [round(on_page, 3), round(engaged, 3)]


def test_engaged_time_never_exceeds_time_on_page_in_any_event(visit: Visit) -> None:
    start(visit, LONG)
    for _ in range(3):
        visit.browser.wheel(300)
        visit.advance(16)
        with visit.hidden():
            visit.advance(1)
    visit.leave()
    visit.wait("exit")
    told = [event for event in visit.events() if "engaged_time" in event]
    assert {"heartbeat", "time_on_page", "exit"} == {event["event_type"] for event in told}
    assert [] == [event for event in told if event["engaged_time"] > event["time_on_page"]]


# Heartbeat


def test_heartbeat_comes_at_15_s_then_every_30_s_and_from_300_s_every_60_s(visit: Visit) -> None:
    start(visit)
    active(visit, 500)
    beats = [15, 45, 75, 105, 135, 165, 195, 225, 255, 285, 315, 375, 435, 495]
    sent = visit.wait("heartbeat", len(beats))
    assert about(*beats) == tuple(event["engaged_time"] for event in sent)
    assert [] == [event for event, beat in zip(sent, beats, strict=True) if event["engaged_time"] < beat]
    assert {"time_on_page", "scroll_depth", "max_scroll_depth"} <= set(sent[0])


def test_heartbeats_are_at_their_time(visit: Visit) -> None:
    """`event_time` and `time_on_page` agree, whenever the event was sent."""
    start(visit)
    active(visit, 46)
    [first, second] = visit.wait("heartbeat", 2)
    shown, *at = (datetime.fromisoformat(each["event_time"]) for each in (visit.first("pageview"), first, second))
    assert about(15, 45) == tuple((each - shown).total_seconds() for each in at)
    assert about(15, 45) == (first["time_on_page"], second["time_on_page"])


def test_idle_visitor_has_no_heartbeat(visit: Visit) -> None:
    """The time on the page does not count: a page that is left open is silent."""
    start(visit)
    visit.advance(3600)
    visit.browser.press("a")
    visit.advance(14)
    assert about(15) == tuple(event["engaged_time"] for event in visit.wait("heartbeat"))
    visit.advance(2)
    assert about(15, 45) == tuple(event["engaged_time"] for event in visit.wait("heartbeat", 2))


@pytest.mark.parametrize("how", ["hidden", "blurred"])
def test_heartbeat_waits_while_the_page_is(visit: Visit, how: str) -> None:
    start(visit)
    visit.advance(10)
    if how == "hidden":
        with visit.hidden():
            visit.advance(100)
    else:
        visit.browser.run("document.hasFocus = () => false; dispatchEvent(new Event('blur'))")
        visit.advance(100)
        visit.browser.run("delete document.hasFocus; dispatchEvent(new Event('focus'))")
    assert [] == visit.events("heartbeat")
    visit.browser.press("a")
    visit.advance(6)
    assert about(15) == (visit.first("heartbeat")["engaged_time"],)
    visit.leave()
    visit.wait("exit")
    assert 1 == len(visit.events("heartbeat"))
