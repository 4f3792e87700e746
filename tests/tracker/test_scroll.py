"""Scrolling: the marks that are crossed, how deep it went, and in which manner."""

from datetime import datetime
from typing import Any

import pytest

from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key

STYLE = "<style>html, body { margin: 0 }</style>"


def screens(count: float) -> str:
    """A page of so many viewports."""
    return f"{STYLE}<div id=long style='height: {count * 100}vh'></div>"


def start(visit: Visit, body: str, **page: Any) -> None:
    visit.open(body, **page)
    visit.wait("pageview")


def scroll(visit: Visit, to: float) -> None:
    """Put the upper edge of the viewport at so many viewports, and wait until the page was told."""
    visit.browser.run_async(
        "const done = arguments[1]; addEventListener('scroll', () => setTimeout(done), {once: true});"
        "scrollTo({top: arguments[0] * innerHeight, behavior: 'instant'})",
        to,
    )


def marks(visit: Visit) -> list[float]:
    return [event["scroll_depth"] for event in visit.events("scroll")]


def leave(visit: Visit) -> dict[str, Any]:
    visit.leave()
    return visit.first("exit")


# Marks


def test_marks_are_sent_as_they_are_crossed(visit: Visit) -> None:
    """By the lower edge of the viewport: of ten viewports, the fourth is at 40 % when the upper edge is at three."""
    start(visit, screens(10))
    for to in (1, 3, 5, 7, 9):
        scroll(visit, to)
    visit.wait("scroll", 4)
    sent = [(event["scroll_depth"], event["max_scroll_depth"]) for event in visit.events("scroll")]
    assert [(25, 40), (50, 60), (75, 80), (100, 100)] == sent


def test_jump_crosses_every_mark_on_its_way(visit: Visit) -> None:
    start(visit, screens(10))
    scroll(visit, 9)
    visit.wait("scroll", 4)
    assert [25, 50, 75, 100] == marks(visit)


def test_mark_is_sent_once_a_view(visit: Visit) -> None:
    start(visit, screens(10))
    for to in (5, 0, 5, 0, 9):
        scroll(visit, to)
    visit.wait("scroll", 4)
    visit.leave()
    visit.wait("exit")
    assert [25, 50, 75, 100] == marks(visit)


@pytest.mark.parametrize("count", [0.5, 1, 2])
def test_page_that_is_not_scrolled_has_no_marks(visit: Visit, count: float) -> None:
    """Whatever part of it is seen without scrolling, which `max_scroll_depth` has."""
    start(visit, screens(count))
    sent = leave(visit)
    assert [] == visit.events("scroll")
    seen = min(100, 100 / count)
    assert (seen, seen, None) == (sent["scroll_depth"], sent["max_scroll_depth"], sent["scroll_behavior"])


def test_first_scroll_sends_the_marks_that_were_in_view(visit: Visit) -> None:
    start(visit, screens(1.9))
    scroll(visit, 0.1)
    visit.wait("scroll", 2)
    visit.leave()
    visit.wait("exit")
    assert [25, 50] == marks(visit)


@pytest.mark.parametrize("by", ["wheel", "key", "link"])
def test_visitor_scrolls(visit: Visit, by: str) -> None:
    """With a real wheel, key and link."""
    start(visit, f"<a id=link href='#end'>End</a>{screens(10)}<p id=end>End")
    if by == "wheel":
        visit.browser.wheel(9_999)
    elif by == "key":
        visit.browser.press(Key.END)
    else:
        visit.browser.click("#link")
    assert [25, 50, 75, 100] == [event["scroll_depth"] for event in visit.wait("scroll", 4)]


def test_last_pixel_need_not_be_seen(visit: Visit) -> None:
    """Positions are fractions of a pixel, so a page at its end may seem to be half a pixel short of it."""
    short = (
        "const {get} = Object.getOwnPropertyDescriptor(window, 'scrollY');"
        "Object.defineProperty(window, 'scrollY', {get: () => Math.max(0, get.call(window) - 0.6)});"
    )
    start(visit, f"{STYLE}<div style='height: 3000px'></div>", before=short)
    visit.browser.run("scrollTo(0, 99999)")
    assert 100 == visit.wait("scroll", 4)[-1]["scroll_depth"]
    assert 100 == leave(visit)["max_scroll_depth"]


def test_depth_is_that_of_now_and_its_maximum(visit: Visit) -> None:
    start(visit, screens(10))
    scroll(visit, 4)
    scroll(visit, 1)
    sent = leave(visit)
    assert (20, 50) == (sent["scroll_depth"], sent["max_scroll_depth"])


def test_page_that_grows_is_measured_as_it_is(visit: Visit) -> None:
    start(visit, screens(4))
    scroll(visit, 1)
    visit.wait("scroll", 2)
    visit.browser.run("document.getElementById('long').style.height = '2000vh'")
    scroll(visit, 3)
    sent = leave(visit)
    assert (20, 50) == (sent["scroll_depth"], sent["max_scroll_depth"])
    assert [25, 50] == marks(visit)


def test_scroll_is_at_the_time_of_crossing(visit: Visit) -> None:
    start(visit, screens(10), clock=True)
    visit.advance(60)
    scroll(visit, 2)
    times = [datetime.fromisoformat(event["event_time"]) for event in (visit.first("pageview"), visit.first("scroll"))]
    assert 60 == pytest.approx((times[1] - times[0]).total_seconds(), abs=2)


# Manner

# Steps of scrolling: viewports and milliseconds of each move within it. A pause of a second is between them.
GLANCE = [(0.3, 0)]  # a turn of the wheel
PAGE = [(0.9, 0)]  # the space bar
SLOW = [(0.15, 140)] * 9  # 1.35 viewports in 1.1 s
FAST = [(0.3, 140)] * 9  # 2.7 viewports in 1.1 s
JUMP = [(3.0, 0)]
DRAG = [(0.5, 140)] * 4  # 2 viewports in 0.4 s
BACK = [(-3.0, 0)]

MANNERS = {
    "a turn of the wheel": ([GLANCE], "reading"),
    "the wheel": ([GLANCE] * 8, "reading"),
    "a page": ([PAGE], "skimming"),
    "slow": ([SLOW] * 3, "reading"),
    "fast": ([FAST] * 3, "skimming"),
    "half fast": ([FAST, SLOW], "reading"),
    "two of three fast": ([FAST, SLOW, FAST], "skimming"),
    "a jump": ([JUMP], "jumping"),
    "a drag of the bar": ([DRAG], "jumping"),
    "back up": ([SLOW, BACK, SLOW], "jumping"),
    "one jump of three": ([SLOW, JUMP, SLOW], "jumping"),
    "one jump of four": ([SLOW, SLOW, JUMP, SLOW], "reading"),
    "jumps and fast": ([JUMP, FAST, FAST, FAST], "skimming"),
}
MANNER_CLOCK = "let now = 9000; performance.now = () => now; window.tick = ms => { now += ms };"
SCROLL_STEPS = """
const [steps, done] = arguments;
const move = viewports => new Promise(moved => {
  addEventListener("scroll", moved, {once: true});
  scrollBy({top: Math.round(viewports * innerHeight), behavior: "instant"});
});
(async () => {
  for (const step of steps) {
    for (const [at, [viewports, ms]] of step.entries()) {
      if (at) window.tick(ms);
      await move(viewports);
    }
    window.tick(1000);
  }
  done();
})();
"""


@pytest.mark.parametrize("name", MANNERS)
def test_manner_of_scrolling(visit: Visit, name: str) -> None:
    """Jumping: over 30 % of the steps are over 1.5 viewports in under a second. Skimming: over half are faster than
    1.5 viewports a second. The page's clock is set by hand, so that a slow machine changes nothing.
    """
    steps, manner = MANNERS[name]
    start(visit, screens(30), before=MANNER_CLOCK)
    scroll(visit, 4)
    visit.browser.run("window.tick(1000); history.pushState(null, '', '/next')")  # a new view, away from the top
    visit.wait("pageview", 2)
    visit.browser.run_async(SCROLL_STEPS, steps)
    visit.leave()
    assert manner == visit.last("exit", 2)["scroll_behavior"]


def test_marks_have_the_manner_so_far(visit: Visit) -> None:
    start(visit, screens(10), before=MANNER_CLOCK)
    visit.browser.run_async(SCROLL_STEPS, [SLOW, SLOW])
    visit.wait("scroll", 1)
    visit.browser.run_async(SCROLL_STEPS, [[(8.0, 0)]])
    visit.wait("scroll", 4)
    assert ["reading", "jumping"] == [visit.events("scroll")[at]["scroll_behavior"] for at in (0, -1)]


INNER = "<div id=box style='height: 200px; overflow: auto'><div style='height: 5000px'></div></div>"
SCROLL_INNER = """
const [done] = arguments, box = document.getElementById("box");
(async () => {
  for (let n = 1; n < 6; n++) {
    await new Promise(moved => { box.addEventListener("scroll", moved, {once: true}); box.scrollTo(0, n * 900); });
    window.tick(1000);
  }
  done();
})();
"""


@pytest.mark.parametrize("manner", [None, "jumping"])
def test_inner_scroller_is_ignored(visit: Visit, manner: str | None) -> None:
    """Its five steps have no manner, and do not change that of the page's own one."""
    start(visit, INNER + screens(4), before=MANNER_CLOCK)
    if manner == "jumping":
        scroll(visit, 3)
        visit.browser.run("window.tick(1000)")
    visit.browser.run_async(SCROLL_INNER)
    sent = leave(visit)
    assert manner == sent["scroll_behavior"]
    assert [] == [each for each in visit.events("scroll") if manner is None]
