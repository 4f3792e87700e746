"""Pages that get in the tracker's way: odd events, polluted prototypes, hooks that fail, work that is never painted.

The harness fails each test whose page has an uncaught error.
"""

import pytest

from tests.tracker.visits import Visit

BUY = "<button id=buy>Buy</button>"


@pytest.mark.parametrize(
    "event",
    [
        "document.querySelector('x-form').dispatchEvent(new CustomEvent('submit', {bubbles: true}))",
        "window.dispatchEvent(new Event('submit'))",
        "document.dispatchEvent(new Event('copy'))",
        "document.dispatchEvent(new Event('invalid'))",
        "document.dispatchEvent(new Event('formdata', {bubbles: true}))",
    ],
)
def test_events_of_the_pages_own_making_do_no_harm(visit: Visit, event: str) -> None:
    visit.open(f"<x-form></x-form>{BUY}")
    visit.browser.run(f"setTimeout(() => {event})")
    visit.browser.click("#buy")
    visit.wait("click")


@pytest.mark.parametrize(
    "pollution",
    [
        "Object.prototype.extra = () => 7",
        "Array.prototype.last = function () { return this[this.length - 1] }",
        "String.prototype.toJSON = function () { return String(this) }",
        "window.Temporal = {}",
        "Object.freeze(Date)",
    ],
)
def test_polluted_globals_do_not_break_the_page(visit: Visit, pollution: str) -> None:
    """Its own calls of `history` go on, whatever becomes of the events."""
    visit.open(BUY, before=pollution)
    visit.browser.click("#buy")
    visit.browser.run("history.pushState(1, '', '/two')")
    assert "/two" == visit.browser.run("return location.pathname")
    visit.wait("click")


def test_hook_that_makes_no_event_drops_only_that_one(visit: Visit) -> None:
    """A promise, text, or what gives no JSON is none; the events behind it are sent."""
    results = "[Promise.resolve(event), 'text', {toJSON() {}, event_type: 'click'}, {}]"
    hook = f"let n = 0; window.hook = event => event.event_type === 'click' && n < 4 ? {results}[n++] : event"
    visit.open(BUY, before=hook, attributes={"before-send": "hook"})
    visit.wait("pageview")
    for _ in range(5):
        visit.browser.click("#buy")
        visit.settle()
    assert 1 == len(visit.wait("click"))


def test_event_of_a_page_that_is_not_painted_is_sent(visit: Visit) -> None:
    """As in a frame out of sight, where no animation frame ever comes."""
    visit.open(BUY, before="window.requestAnimationFrame = () => 0")
    visit.wait("pageview")


def test_number_that_is_cut_is_masked(visit: Visit) -> None:
    """Its seventh digit lies beyond the hundredth character."""
    visit.open(f"<button id=buy>{'x' * 94} 0171234567</button>")
    visit.browser.click("#buy")
    assert "x" * 94 + " ***" == visit.first("click")["click_element_text"]


@pytest.mark.parametrize(
    "text",
    [
        "anna<wbr>@example.com",
        "+1 555\N{NON-BREAKING HYPHEN}123\N{NON-BREAKING HYPHEN}4567",
        "030\N{EN DASH}1234\N{EN DASH}56",
        "4111\N{MIDDLE DOT}1111\N{MIDDLE DOT}1111\N{MIDDLE DOT}1111",
        "DE89_3704_0044_0532_0130",
    ],
)
def test_addresses_and_numbers_are_masked_however_they_are_written(visit: Visit, text: str) -> None:
    visit.open(f"<button id=buy>{text}</button>")
    visit.browser.click("#buy")
    told = visit.first("click")["click_element_text"]
    assert "***" in told
    assert not [part for part in ("anna", "example", "123", "4567", "1111", "0044") if part in told]


def test_disabled_tracker_drops_what_waits(visit: Visit) -> None:
    visit.open(BUY, clock=True)
    visit.wait("pageview")
    visit.fail("status", status=503, headers={"Retry-After": "2"}, times=1)
    visit.browser.click("#buy")
    visit.wait("click")
    visit.settle()
    visit.browser.run("collector.disable()")
    visit.advance(3)
    visit.browser.run("collector.enable(); collector.trackEvent({type: 'after'})")
    visit.wait_for(lambda events: events[-1]["click_element_id"] == "after", "the event after it")
    assert ["buy", "after"] == [event["click_element_id"] for event in visit.events("click")]


@pytest.mark.parametrize("answer", ["'denied'", "", "null", "1"])
def test_only_true_is_consent(visit: Visit, answer: str) -> None:
    visit.open(BUY, attributes={"consent": "cookieless"})
    visit.wait("pageview")
    visit.browser.run(f"collector.consent({answer}); collector.trackEvent({{type: 'after'}})")
    visit.wait("click")
    assert {} == visit.browser.cookies()


def test_event_of_the_moment_before_a_refusal_is_not_sent(visit: Visit) -> None:
    """It waits for the next paint, and the refusal comes first."""
    visit.open(BUY, attributes={"consent": "required"})
    visit.browser.run("collector.consent(true)")
    visit.wait("pageview")
    visit.browser.run("collector.trackEvent({type: 'early'}); collector.consent(false)")
    visit.settle()
    visit.browser.run("collector.consent(true); collector.trackEvent({type: 'late'})")
    assert ["late"] == [event["click_element_id"] for event in visit.wait("click")]


@pytest.mark.parametrize("mode", ["none", "required"])
def test_page_that_comes_back_heeds_a_refusal_on_the_next_one(visit: Visit, mode: str) -> None:
    """The page from the bfcache still has the answer of before."""
    visit.page(BUY, "/two", attributes={"consent": mode})
    visit.open(BUY, attributes={"consent": mode})
    visit.browser.run("collector.consent(true)")
    visit.wait("pageview")
    visit.settle()
    visit.go("/two")
    visit.wait("pageview", 2)
    visit.settle()
    visit.browser.run("collector.consent(false)")
    visit.browser.back()
    visit.until("location.pathname === '/'")
    visit.settle()
    assert {} == visit.browser.cookies()
    if mode == "none":
        assert "fingerprint" == visit.wait("pageview", 3)[-1]["visitor_id_source"]
    else:
        assert [False, 2] == [visit.browser.run("return collector.isEnabled()"), len(visit.events("pageview"))]
