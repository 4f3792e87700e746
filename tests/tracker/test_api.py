"""`window.collector`: calls before and after the script has loaded, odd ones too, and what else a page sees."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tracker.visits import Visit

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "collect.schema.json").read_text())
EVENT_TYPES: list[str] = SCHEMA["properties"]["event_type"]["enum"]

CUSTOM = "window.collector.trackEvent({type: arguments[0]})"
STUB = "window.collector = window.collector || {q: []};"


def last_custom(visit: Visit) -> None:
    """Send a last event, and wait for it: what came before has been sent."""
    visit.browser.run(CUSTOM, "last")
    visit.wait_for(lambda events: any(event.get("click_element_id") == "last" for event in events), "the last event")


def test_calls_before_the_script_are_made_when_it_loads(visit: Visit) -> None:
    """In their order, after the pageview."""
    calls = "collector.q.push(['trackEvent', {type: 'signup'}], ['trackEvent', {type: 'copy', copied_text: 'x'}]);"
    visit.open(before=STUB + calls)
    visit.wait("copy")
    assert ["pageview", "click", "copy"] == visit.types()
    assert ("custom", "signup") == tuple(
        visit.first("click")[name] for name in ("click_element_tag", "click_element_id")
    )


def test_call_before_the_script_may_give_or_refuse_consent(visit: Visit) -> None:
    visit.open(before=STUB + "collector.q.push(['consent', false]);")
    assert "fingerprint" == visit.first("pageview")["visitor_id_source"]
    assert set() == set(visit.browser.cookies())


def test_calls_pushed_after_the_script_are_made_at_once(visit: Visit) -> None:
    """So that a page need not know whether it has loaded."""
    visit.open(before=STUB).first("pageview")
    visit.browser.run("window.collector.q.push(['trackEvent', {type: 'late'}])")
    assert "late" == visit.first("click")["click_element_id"]


def test_methods_work_apart_from_their_object(visit: Visit) -> None:
    visit.open().first("pageview")
    visit.browser.run("const {trackEvent} = window.collector; setTimeout(trackEvent, 0, {type: 'free'})")
    assert "free" == visit.first("click")["click_element_id"]


def test_every_type_of_the_contract_can_be_sent_with_its_fields(visit: Visit) -> None:
    visit.open(attributes={"auto": "false", "on": "heatmap_click"})
    visit.browser.run(
        "for (const type of arguments) window.collector.trackEvent({type, form_name: type, scroll_depth: 12.5})",
        *EVENT_TYPES,
    )
    events = visit.wait_for(lambda events: len(events) >= len(EVENT_TYPES), "all types")
    assert EVENT_TYPES == [event["event_type"] for event in events]
    assert [(name, 12.5) for name in EVENT_TYPES] == [(event["form_name"], event["scroll_depth"]) for event in events]
    assert {"/"} == {event["page_path"] for event in events}


def test_custom_type_is_a_click_on_a_custom_element(visit: Visit) -> None:
    visit.open().first("pageview")
    visit.browser.run("window.collector.trackEvent({type: 'newsletter signup', click_element_text: 'Footer'})")
    event = visit.first("click")
    assert ("custom", "newsletter signup", "Footer") == tuple(
        event[f"click_element_{name}"] for name in ("tag", "id", "text")
    )
    assert "type" not in event


ODD_CALLS = [
    "c.trackEvent()",
    "c.trackEvent(null)",
    "c.trackEvent('signup')",
    "c.trackEvent(7)",
    "c.trackEvent({})",
    "c.trackEvent({type: null})",
    "c.trackEvent({type: 7})",
    "c.trackPageview(null)",
    "c.trackPageview('x')",
    "c.q.push()",
    "c.q.push(null)",
    "c.q.push([])",
    "c.q.push('trackEvent')",
    "c.q.push(['nothing', 1])",
    "c.q.push(['toString'])",
    "c.q.push(['constructor'])",
    "c.q.push(['trackEvent'])",
    "c.isEnabled(1, 2)",
    "c.enable('x')",
]


def test_odd_calls_do_not_throw_into_the_page(visit: Visit) -> None:
    """The page's own code goes on behind them. What is sent of them is valid."""
    visit.open().first("pageview")
    thrown = visit.browser.run(
        "const c = window.collector, thrown = [];"
        "for (const call of arguments) try { new Function('c', call)(c) } catch (error) { thrown.push(call + error) }"
        "return thrown",
        *ODD_CALLS,
    )
    last_custom(visit)
    assert [] == thrown


@pytest.mark.parametrize(
    "call",
    ["null", "7", "[]", "['nothing']", "['trackEvent']", "['trackEvent', null]", "['toString']", "{}"],
)
def test_odd_call_before_the_script_does_not_stop_the_next_ones(visit: Visit, call: str) -> None:
    visit.open(before=f"{STUB} collector.q.push({call}, ['trackEvent', {{type: 'last'}}]);")
    visit.wait_for(lambda events: any(event.get("click_element_id") == "last" for event in events), "the next call")


@pytest.mark.parametrize("stub", ["7", "'x'", "true", "{}", "{q: null}", "{q: []}", "null"])
def test_odd_stub_is_replaced(visit: Visit, stub: str) -> None:
    visit.open(before=f"window.collector = {stub};").first("pageview")
    last_custom(visit)


def test_fields_that_no_event_can_have_do_no_harm(visit: Visit) -> None:
    """What JSON cannot hold: nothing is thrown later, and the next event is sent."""
    visit.open().first("pageview")
    visit.browser.run(
        "const ring = {}; ring.ring = ring; const send = f => window.collector.trackEvent({type: 'odd', ...f});"
        "send({click_element_text: undefined}); send({other: () => 1}); send({click_x: NaN}); send({other: ring.x})"
    )
    last_custom(visit)
    assert 4 == sum(event.get("click_element_id") == "odd" for event in visit.events())


def test_pageview_is_the_pages_own_call_without_auto(visit: Visit) -> None:
    """Nothing else is sent by itself, whatever happens."""
    visit.open("<button id=buy>Buy</button>", attributes={"auto": "false"}, clock=True)
    visit.browser.click("#buy")
    visit.advance(60)
    visit.browser.run("history.pushState(null, '', '/next')")
    visit.browser.run("window.collector.trackPageview({page_title: 'Own title'})")
    assert ("Own title", "/next", True) == tuple(
        visit.first("pageview")[name] for name in ("page_title", "page_path", "is_entry")
    )
    visit.browser.run("window.collector.trackPageview()")
    assert ("Page", False) == tuple(visit.last("pageview", 2)[name] for name in ("page_title", "is_entry"))
    with visit.hidden():
        pass
    visit.leave()
    visit.answered()
    assert ["pageview", "pageview"] == visit.types()


def test_own_pageview_ends_the_view_before(visit: Visit) -> None:
    visit.open(clock=True).first("pageview")
    visit.browser.run("window.collector.trackPageview({page_path: '/dialog'})")
    assert "/dialog" == visit.last("pageview", 2)["page_path"]
    assert ["pageview", "exit", "pageview"] == [kind for kind in visit.types() if kind in ("pageview", "exit")]


def test_page_has_no_new_global_but_collector(visit: Visit) -> None:
    keep = "window.names = []; window.names = Object.getOwnPropertyNames(window);"
    visit.open(before=keep).first("pageview")
    new = visit.browser.run("return Object.getOwnPropertyNames(window).filter(name => !window.names.includes(name))")
    assert ["collector"] == new


LISTENERS = """{
const { addEventListener } = EventTarget.prototype;
window.heard = [];
EventTarget.prototype.addEventListener = function (type) {
  window.heard.push(type);
  return addEventListener.apply(this, arguments);
};
}"""


def test_nothing_keeps_the_page_out_of_the_bfcache(visit: Visit) -> None:
    """No handler of `unload` or `beforeunload`, and the page comes back as it was."""
    visit.open(before=LISTENERS, title="Prices").first("pageview")
    heard: list[Any] = visit.browser.run("return [...window.heard, window.onunload, window.onbeforeunload]")
    assert "pagehide" in heard
    assert {"unload", "beforeunload"}.isdisjoint(heard)
    assert [None, None] == heard[-2:]
    visit.browser.run("window.kept = 7")
    visit.leave()
    visit.browser.back()
    assert 7 == visit.browser.run("return window.kept")
    assert ["Prices", "Prices"] == [event["page_title"] for event in visit.wait("pageview", 2)]
