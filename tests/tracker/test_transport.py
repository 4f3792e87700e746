"""Transport: how events are sent, and what waits when they cannot be.

Most pages here have a clock, so that pauses take no time. `CUSTOM` sends a click whose id is the argument.
"""

import json
from itertools import pairwise
from typing import Any

import pytest

from tests.tracker.recorder import Received
from tests.tracker.visits import Visit

CUSTOM = "for (const id of arguments) window.collector.trackEvent({type: String(id)})"


# The page's time at each `fetch`, and how many are under way or about to follow.
WATCH_FETCH = """{
const { fetch } = window;
window.at = [];
window.busy = 0;
window.fetch = function () {
  window.at.push(performance.now());
  window.busy++;
  const answer = fetch.apply(this, arguments), end = () => setTimeout(() => window.busy--, 0);
  answer.then(end, end);
  return answer;
};
}"""


def start(visit: Visit, **page: Any) -> None:
    """Open a page with a clock, and wait until its pageview is answered."""
    visit.open(clock=True, **page).first("pageview")
    visit.settle()


def sent(visit: Visit) -> list[str]:
    """The ids of the custom events that were sent, each time one was."""
    return [event["click_element_id"] for event in visit.events("click")]


def stored(visit: Visit) -> list[str]:
    """Those of them that the collector has acknowledged."""
    return [each.event["click_element_id"] for each in acknowledged(visit) if each.event["event_type"] == "click"]


def acknowledged(visit: Visit) -> list[Received]:
    return [each for each in visit.requests("POST") if each.status == 201]


def wait_until_stored(visit: Visit, *ids: str) -> None:
    visit.wait_for_request(lambda _: set(ids) <= set(stored(visit)), f"{ids} are stored")


def test_request_needs_no_preflight_and_has_one_event_as_text(visit: Visit) -> None:
    """So it is a simple request for CORS. At its end the test looks for preflights."""
    start(visit)
    visit.browser.run(CUSTOM, "a", "b")
    wait_until_stored(visit, "a", "b")
    for request in visit.requests():
        assert "POST" == request.method
        assert request.headers["content-type"].lower().startswith("text/plain")
        assert isinstance(json.loads(request.body), dict)


def test_fetch_sends_no_credentials(visit: Visit) -> None:
    """Not even to the page's own origin, which would get its cookies."""
    start(visit, first_party=True)
    visit.browser.run("document.cookie = 'login=secret; path=/'")
    visit.browser.run(CUSTOM, "a")
    wait_until_stored(visit, "a")
    assert [None, None] == [request.headers.get("cookie") for request in visit.requests()]
    assert [None, None] == [request.headers.get("authorization") for request in visit.requests()]


LOG = """{
const log = (way, body) => localStorage.log += `${way} ${typeof body} ${JSON.parse(body).event_type}\\n`;
localStorage.log ??= "";
const { fetch } = window, { sendBeacon } = navigator;
window.fetch = function (url, { body }) { log("fetch", body); return fetch.apply(this, arguments); };
navigator.sendBeacon = function (url, body) { log("beacon", body); return sendBeacon.apply(this, arguments); };
}"""


def test_fetch_sends_while_the_page_lives_and_a_beacon_as_it_goes(visit: Visit) -> None:
    """All as strings: a Blob with a type of its own could need a preflight."""
    start(visit, before=LOG)
    visit.browser.run(CUSTOM, "a")
    visit.wait("click")
    with visit.hidden():
        visit.browser.run(CUSTOM, "hidden")
        visit.wait("click", 2)
    visit.browser.run(CUSTOM, "visible")
    visit.wait("click", 3)
    visit.settle()
    visit.leave()
    visit.wait("exit")
    visit.browser.back()
    lines = visit.browser.run("return localStorage.log").splitlines()
    assert lines[0] == "fetch string pageview"
    clicks = [line for line in lines if line.endswith("click")]
    assert ["fetch string click", "beacon string click", "fetch string click"] == clicks
    assert "beacon string exit" in lines


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(visit: Visit, status: int) -> None:
    """To the second, and by what comes meanwhile. Then all goes, in its order."""
    start(visit)
    visit.fail(status=status, headers={"Retry-After": "60"}, times=1)
    visit.browser.run(CUSTOM, "a")
    visit.wait("click")
    visit.settle()
    visit.advance(55)
    visit.browser.run(CUSTOM, "b")
    visit.settle()
    assert ["a"] == sent(visit)
    visit.advance(6)
    wait_until_stored(visit, "a", "b")
    assert ["a", "a", "b"] == sent(visit)
    first, second, _ = visit.events("click")
    assert first == second


def test_retry_after_is_obeyed_when_the_page_is_hidden_and_seen_again(visit: Visit) -> None:
    start(visit)
    visit.fail(headers={"Retry-After": "60"}, times=1)
    visit.browser.run(CUSTOM, "a")
    visit.wait("click")
    visit.settle()
    with visit.hidden():
        visit.browser.run(CUSTOM, "b")
    visit.browser.run("window.dispatchEvent(new Event('online'))")
    visit.settle()
    assert ["a"] == sent(visit)
    visit.advance(61)
    wait_until_stored(visit, "a", "b")


def test_pauses_grow_where_the_collector_names_none(visit: Visit) -> None:
    """At least a second, then longer, at most some minutes."""
    start(visit, before=WATCH_FETCH)
    visit.fail()
    visit.browser.run(CUSTOM, "a")
    for count in range(1, 10):
        visit.wait("click", count)
        visit.until("window.busy === 0")
        visit.browser.run(
            "const before = window.at.length; let s = 0;"
            "return (async () => { while (window.at.length === before && s++ < 600) await advanceClock(1000); })()"
        )
    visit.wait("click", 10)
    times = visit.browser.run("return window.at")[1:]
    pauses = [(after - before) / 1000 for before, after in pairwise(times)]
    assert 1 <= pauses[0] < 10
    assert all(longer > shorter * 0.9 for shorter, longer in pairwise(pauses)), pauses
    assert 60 <= pauses[-1] < 600
    assert ["a"] * 10 == sent(visit)


def test_other_answers_are_not_retried(visit: Visit) -> None:
    """The event would be refused again, or the server is broken for longer than a page lives."""
    statuses = [200, 202, 204, 400, 401, 403, 404, 405, 413, 422, 500, 502, 504]
    start(visit)
    for status in statuses:
        visit.fail(status=status, headers={"Retry-After": "1"}, times=1)
        visit.browser.run(CUSTOM, status)
        visit.wait_for(lambda _, status=status: str(status) in sent(visit), f"{status} is sent")  # type: ignore[misc]
    visit.settle()
    visit.advance(600)
    visit.browser.run(CUSTOM, "last")
    wait_until_stored(visit, "last")
    assert [*map(str, statuses), "last"] == sent(visit)


def test_lost_response_is_retried(visit: Visit) -> None:
    """The page cannot tell whether the event arrived. At least once is better than never."""
    start(visit)
    visit.fail("lost", times=2)  # Chromium itself repeats it once
    visit.browser.run(CUSTOM, "a")
    visit.wait("click")
    visit.settle()
    visit.mend()
    visit.advance(60)
    visit.browser.run(CUSTOM, "b")
    wait_until_stored(visit, "a", "b")
    assert 1 == len({event["event_time"] for event in visit.events("click") if event["click_element_id"] == "a"})


def test_collector_that_was_down_gets_what_waited_in_order(visit: Visit) -> None:
    """With the time at which it happened."""
    start(visit)
    visit.fail("broken")
    for name in ("a", "b", "c"):
        visit.browser.run(CUSTOM, name)
        visit.advance(1)
    visit.wait("click")
    visit.settle()
    visit.advance(60)
    visit.settle()
    visit.mend()
    visit.advance(600)
    wait_until_stored(visit, "a", "b", "c")
    assert ["a", "b", "c"] == stored(visit)
    times = [each.event["event_time"] for each in acknowledged(visit)]
    assert sorted(times) == times
    assert 3 == len(set(times[1:]))


def test_fifty_events_wait_and_the_oldest_are_dropped_first(visit: Visit) -> None:
    start(visit, attributes={"off": "heartbeat"})
    visit.fail("broken")
    visit.browser.run(CUSTOM, *range(70))
    visit.wait("click")
    visit.settle()
    visit.mend()
    visit.advance(600)
    wait_until_stored(visit, "69")
    kept = [int(each) for each in stored(visit)]
    assert sorted(kept) == kept
    assert list(range(21, 70)) == kept[-49:]
    assert len(kept) <= 50


def test_page_that_comes_online_sends_what_waited(visit: Visit) -> None:
    """At once, not after the pause: by then that is minutes."""
    start(visit)
    with visit.offline():
        visit.browser.run(CUSTOM, "a", "b")
        for _ in range(7):
            visit.settle()
            visit.advance(600)
    wait_until_stored(visit, "a", "b")
    assert ["a", "b"] == stored(visit)


def test_hanging_collector_does_not_keep_events_for_ever(visit: Visit) -> None:
    start(
        visit,
        before="AbortSignal.timeout = ms => {"
        "const control = new AbortController(); setTimeout(() => control.abort(), ms); return control.signal; };",
    )
    visit.fail("hang", times=1)
    visit.browser.run(CUSTOM, "a", "b")
    visit.wait("click")
    seconds = 0
    while len(sent(visit)) == 1 and seconds < 120:
        visit.advance(5)
        visit.settle()
        seconds += 5
    wait_until_stored(visit, "a", "b")
    assert ["a", "b"] == stored(visit)


def test_waiting_events_go_when_the_page_does(visit: Visit) -> None:
    start(visit)
    visit.fail("broken")
    visit.browser.run(CUSTOM, "a", "b", "c")
    visit.wait("click")
    visit.settle()
    visit.mend()
    visit.leave()
    wait_until_stored(visit, "a", "b", "c")
    visit.wait("exit")


def test_waiting_events_behind_a_hanging_one_go_when_the_page_does(visit: Visit) -> None:
    start(visit)
    visit.fail("hang", times=1)
    visit.browser.run(CUSTOM, "a", "b", "c")
    visit.wait("click")
    visit.settle()
    visit.leave()
    wait_until_stored(visit, "b", "c")
    visit.wait("exit")


def test_page_that_leaves_during_an_ordered_pause_sends_nothing(visit: Visit) -> None:
    """The collector has said when it can take events again, and that is not now."""
    start(visit)
    visit.fail(status=429, headers={"Retry-After": "60"}, times=1)
    visit.browser.run(CUSTOM, "a")
    visit.wait("click")
    visit.settle()
    visit.browser.run(CUSTOM, "b")
    visit.leave()
    visit.open().wait("pageview", 2)
    assert ["a"] == sent(visit)


def test_page_gone_wild_sends_120_events_and_then_two_a_second(visit: Visit) -> None:
    """So that it cannot use up what its visitor may send, 1,200 a minute. What is over it is dropped."""
    start(visit, before=WATCH_FETCH)

    def go_wild(batches: int) -> None:
        for _ in range(batches):
            visit.browser.run(CUSTOM, *["wild"] * 40)
            visit.settle()
            visit.until("window.busy === 0")

    began = visit.browser.run("return performance.now()")
    go_wild(7)
    took_s = (visit.browser.run("return performance.now()") - began) / 1000
    burst = len(visit.events())
    assert 100 <= burst <= 121 + 2 * took_s
    visit.advance(20)
    go_wild(3)
    took_s = (visit.browser.run("return performance.now()") - began) / 1000
    assert 30 <= len(visit.events()) - burst
    assert len(visit.events()) <= 121 + 2 * took_s
    visit.advance(60)
    visit.browser.run(CUSTOM, "calm")
    wait_until_stored(visit, "calm")


@pytest.mark.parametrize(
    "blocked",
    [
        "window.fetch = () => Promise.reject(new TypeError('Failed to fetch'));",
        "window.fetch = () => { throw new TypeError('blocked'); };",
        "Object.defineProperty(navigator, 'sendBeacon', {value: undefined});",
        "navigator.sendBeacon = () => false;",
    ],
    ids=["fetch rejects", "fetch throws", "no beacon", "beacon refuses"],
)
def test_blocked_requests_cause_no_error_on_the_page(visit: Visit, blocked: str) -> None:
    """Blockers replace these functions, and settings turn beacons off. At its end the test looks for errors."""
    visit.open("<button id=buy>Buy</button>", before=blocked)
    visit.browser.click("#buy")
    visit.settle()
    with visit.hidden():
        pass
    visit.leave()
