"""The page's life: hidden, visible, left, reloaded, closed, and restored from the bfcache."""

from datetime import datetime

import pytest

from tests.tracker.visits import Visit

DELAY_S = 0.02  # of pages: WebKitGTK tells times in whole milliseconds, and has no TTFB if the response takes less
LONG = "<div style='height: 4000px'></div>"


def start(visit: Visit, body: str = "", path: str = "/", clock: bool = True) -> None:
    visit.open(body, path, clock=clock, delay_s=DELAY_S)
    visit.wait("pageview")


def kinds(visit: Visit, *of: str) -> list[str]:
    return [kind for kind in visit.types() if kind in of]


# Hidden and visible


def test_hidden_page_tells_its_time_and_vitals_but_no_exit(visit: Visit) -> None:
    start(visit)
    visit.advance(5)
    with visit.hidden():
        visit.wait("time_on_page")
        visit.wait("cwv")
        assert [] == visit.events("exit")
    visit.leave()
    visit.wait("exit")
    assert "exit" == visit.types()[-1]


def test_page_that_is_shown_again_is_no_second_view(visit: Visit) -> None:
    start(visit)
    for _ in range(2):
        with visit.hidden():
            pass
    visit.leave()
    visit.wait("exit")
    assert ["pageview", "exit"] == kinds(visit, "pageview", "exit")


def test_hidden_page_says_so(visit: Visit) -> None:
    """`visible` is how the page was at the event, so what is told while it is hidden has false."""
    start(visit)
    visit.advance(5)
    with visit.hidden():
        visit.wait("time_on_page")
    assert (True, False) == (visit.first("pageview")["visible"], visit.first("time_on_page")["visible"])


ENOUGH = [
    # seconds, scrolled to, whether time_on_page is told
    (0, 0, False),
    (2, 0, False),
    (4, 0, True),
    (0, 2000, True),
]


@pytest.mark.parametrize(("seconds", "depth", "is_told"), ENOUGH)
def test_time_on_page_is_told_if_there_is_enough(visit: Visit, seconds: int, depth: int, is_told: bool) -> None:
    """Three seconds more engaged than told before, or deeper. Nothing was told before, so at first depth is enough."""
    start(visit, LONG)
    with visit.hidden():  # tells the depth of the first viewport
        pass
    before = len(visit.events("time_on_page"))
    visit.browser.run("scrollTo(0, arguments[0])", depth)
    visit.settle()
    visit.advance(seconds)
    with visit.hidden():
        pass
    visit.leave()
    visit.wait("exit")
    assert is_told == (len(visit.events("time_on_page")) > before)


def test_time_on_page_counts_from_what_was_told_before(visit: Visit) -> None:
    start(visit)
    visit.advance(4)
    with visit.hidden():
        visit.wait("time_on_page")
    visit.advance(2)
    with visit.hidden():
        pass
    visit.advance(2)
    with visit.hidden():
        visit.wait("time_on_page", 2)
    times = [event["engaged_time"] for event in visit.events("time_on_page")]
    assert [pytest.approx(4, abs=1), pytest.approx(8, abs=1.5)] == times
    assert times[1] - times[0] >= 3


def test_heartbeat_has_told_the_time(visit: Visit) -> None:
    start(visit)
    visit.advance(16)
    visit.wait("heartbeat")
    with visit.hidden():
        pass
    visit.leave()
    visit.wait("exit")
    assert [] == visit.events("time_on_page")


# Hidden at load


def hide_at_load(visit: Visit, path: str = "/") -> None:
    """Open a page that believes it is hidden until `show`; `visit.hidden` hides what is loaded already."""
    believe = (
        "let hidden = true; for (const [name, value] of [['hidden', () => hidden],"
        "['visibilityState', () => hidden ? 'hidden' : 'visible']])"
        "Object.defineProperty(document, name, {get: value, configurable: true});"
        "window.show = () => {"
        "hidden = false; document.dispatchEvent(new Event('visibilitychange', {bubbles: true})); };"
    )
    visit.open("<button id=buy>Buy</button>", path, before=believe, clock=True)


def test_page_in_the_background_sends_nothing_until_it_is_shown(visit: Visit) -> None:
    hide_at_load(visit)
    visit.advance(60)
    visit.settle()
    assert [] == visit.events()
    visit.browser.run("window.show()")
    assert visit.first("pageview")["visible"]
    visit.advance(5)
    visit.leave()
    assert 5 == pytest.approx(visit.first("exit")["time_on_page"], abs=3)


def test_page_that_was_never_shown_sends_nothing(visit: Visit) -> None:
    hide_at_load(visit)
    visit.advance(60)
    visit.leave()
    visit.open(path="/next")
    assert "/next" == visit.first("pageview")["page_path"]
    assert {"/next"} == {event["page_path"] for event in visit.events()}


def test_tab_in_the_background_sends_nothing_until_it_is_shown(visit: Visit) -> None:
    visit.needs("tabs")
    visit.page("", "/tab")
    start(visit, "<a id=tab href='/tab' target=_blank>Tab</a>", clock=False)
    visit.browser.click("#tab", button=1)
    [tab] = visit.wait_for_windows(1)
    visit.settle()
    sent = [event["page_path"] for event in visit.events()]
    assert {"/"} == set(sent)
    visit.browser.switch(tab)
    visit.until("document.visibilityState === 'visible'")
    visit.wait_for(lambda events: "/tab" in [event["page_path"] for event in events], "the tab's pageview")
    visit.browser.close()
    visit.browser.switch(visit.browser.first_window)


# Left


@pytest.mark.parametrize("way", ["address", "link", "reload", "close"])
def test_left_page_sends_one_exit(visit: Visit, way: str) -> None:
    visit.page("<p>Next", "/next", tracker=False)
    start(visit, "<a id=next href='/next'>Next</a>", "/page")
    browser = visit.browser
    if way == "address":
        visit.leave()
    elif way == "link":
        browser.click("#next")
    elif way == "reload":
        browser.reload()
        visit.wait("pageview", 2)
        assert 1 == len(visit.events("exit"))
        return
    else:
        visit.needs("close")
        visit.needs("tabs")  # otherwise the new tab is hidden all its life
        with browser.other_window():
            visit.go("/page")
            visit.wait("pageview", 2)
        visit.wait("exit")
        visit.settle()
        assert 1 == len(visit.events("exit"))
        return
    sent = visit.first("exit")
    visit.open(path="/last")
    visit.wait_for(lambda events: "/last" == events[-1]["page_path"], "the last pageview")
    assert (True, "/page") == (sent["is_exit"], sent["page_path"])
    assert 1 == [event["page_path"] for event in visit.events("exit")].count("/page")
    assert {"time_on_page", "engaged_time", "scroll_depth", "max_scroll_depth", "scroll_behavior"} <= set(sent)


def test_reloaded_page_is_a_new_view(visit: Visit) -> None:
    start(visit)
    visit.browser.reload()
    visit.wait("pageview", 2)
    assert ["pageview", "exit", "pageview"] == kinds(visit, "pageview", "exit")


def test_page_left_before_its_pageview_was_due_still_counts(visit: Visit) -> None:
    """A visitor who leaves within a moment has seen it: with pageview and exit, in this order."""
    visit.page("", "/fast", before="addEventListener('load', () => location.href = '/next')")
    visit.page("", "/next", tracker=False)
    visit.go("/fast")
    visit.wait("exit")
    visit.wait("pageview")
    assert {"/fast"} == {event["page_path"] for event in visit.events()}


def test_leaving_events_are_at_the_time_of_leaving(visit: Visit) -> None:
    start(visit)
    visit.advance(60)
    visit.leave()
    times = [datetime.fromisoformat(event["event_time"]) for event in visit.events("pageview") + visit.wait("exit")]
    assert 60 == pytest.approx((times[1] - times[0]).total_seconds(), abs=3)


# Vitals at leaving


def test_vitals_are_told_once_at_hidden_and_leaving(visit: Visit) -> None:
    start(visit)
    with visit.hidden():
        visit.wait("cwv")
    with visit.hidden():
        pass
    visit.leave()
    visit.wait("exit")
    assert 1 == len(visit.events("cwv"))


# Restored


def restore(visit: Visit, count: int = 2) -> None:
    """Leave and come back. Firefox keeps no page that has a request under way."""
    visit.settle()
    visit.leave()
    visit.wait("exit", count - 1)
    visit.browser.back()
    visit.wait("pageview", count)


def test_restored_page_is_a_new_view_with_a_new_exit(visit: Visit) -> None:
    start(visit)
    visit.advance(60)
    restore(visit)
    visit.advance(5)
    visit.leave()
    first, second = visit.wait("exit", 2)
    assert ["pageview", "exit", "pageview", "exit"] == kinds(visit, "pageview", "exit")
    assert 60 == pytest.approx(first["time_on_page"], abs=3)
    assert 5 == pytest.approx(second["time_on_page"], abs=3)


def test_restored_page_may_be_restored_again(visit: Visit) -> None:
    start(visit)
    restore(visit)
    restore(visit, 3)
    assert ["pageview", "exit", "pageview", "exit", "pageview"] == kinds(visit, "pageview", "exit")


def test_restored_page_keeps_no_scrolling(visit: Visit) -> None:
    start(visit, LONG)
    visit.browser.run("scrollTo(0, 9999)")
    visit.wait("scroll", 4)
    visit.browser.run("scrollTo(0, 0)")
    visit.settle()
    restore(visit)
    visit.leave()
    first, second = visit.wait("exit", 2)
    assert ("jumping", None) == (first["scroll_behavior"], second["scroll_behavior"])
    assert (100, True) == (first["max_scroll_depth"], second["max_scroll_depth"] < 50)


def test_vitals_of_a_restored_page_are_those_of_the_restore(visit: Visit) -> None:
    """Credited to the page that was restored. Its first byte was there at once."""
    start(visit, "<h1>Shop</h1>", "/shop")
    restore(visit)
    visit.leave()
    visit.wait("exit", 2)
    first, second = visit.wait("cwv", 2)
    assert first["ttfb"] > 0
    assert 0 == second["ttfb"]


def test_restored_route_is_what_its_vitals_are_credited_to(visit: Visit) -> None:
    start(visit, "<h1>Shop</h1>", "/shop")
    visit.browser.run("history.pushState(null, '', '/shoes')")
    visit.advance(1)
    visit.wait("pageview", 2)
    restore(visit, 3)
    visit.leave()
    visit.wait("exit", 3)
    assert ["/shop", "/shoes"] == [event["page_path"] for event in visit.wait("cwv", 2)]


def test_heartbeat_goes_on_after_a_restore(visit: Visit) -> None:
    start(visit)
    visit.advance(10)
    restore(visit)
    visit.browser.press("a")  # Firefox restores the focus later, and tells nobody
    visit.advance(13)
    assert [] == visit.events("heartbeat")
    visit.advance(5)
    assert 15 <= visit.first("heartbeat")["engaged_time"] < 18
