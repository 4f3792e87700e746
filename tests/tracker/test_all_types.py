"""All twenty types of one visit to a strict site, from page to Parquet, and the fields that they fill."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.tracker.engines import Engine
from tests.tracker.recorder import Event, differences
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "collect.schema.json").read_text())
TYPES: set[str] = set(SCHEMA["properties"]["event_type"]["enum"])
FIELDS: set[str] = set(SCHEMA["properties"])

BODY = """
<h1 style="margin: 0 0 20px">Prices</h1>
<p id=text data-copied-text>Seven euros</p>
<button id=dead class="buy big">Buy now</button>
<a id=out data-stop href="https://partner.example/offer?code=secret">Partner</a>
<a id=mail data-stop href="mailto:sales@shop.example?subject=Offer">Write</a>
<a id=call data-stop href="tel:+49301234567">Call</a>
<a id=file data-stop href="/files/Price%20list.PDF?v=2">Price list</a>
<form id=order name=order-form>
  <input id=email name=email type=email required> <input id=city name=city>
  <button id=send>Send</button>
</form>
<form id=later name=later-form><textarea id=note name=note></textarea></form>
<p style="height: 3000px">Long</p>
"""
SCRIPT = """
addEventListener("click", event => event.target.closest("[data-stop]") && event.preventDefault());
addEventListener("submit", event => { event.preventDefault(); });
"""
POLICY = (
    "default-src 'none'; script-src COLLECTOR; connect-src COLLECTOR; style-src 'unsafe-inline'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
UTM = "&".join(f"utm_{name}=the-{name}" for name in ("source", "medium", "campaign", "term", "content"))


def is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and low <= value <= high


def one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def is_now(value: Any) -> bool:
    """Within the hour: the page's clock is up to a minute ahead."""
    return abs((datetime.fromisoformat(value) - datetime.now(UTC)).total_seconds()) < 3600


# What each field of a browser's is in the visit below: the type of an event, and a check with the field's unit.
# seconds: of a visit that lasts a minute by its clock, so that milliseconds fail; click_x, click_y: CSS pixels.
SECONDS = is_number(0, 120)
PERCENT = is_number(0, 100)
EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "session_id": ("pageview", is_text),
    "visitor_id": ("pageview", is_text),
    "cookie_visitor_id": ("pageview", is_text),
    "visitor_id_source": ("pageview", one_of("cookie")),
    "event_type": ("pageview", one_of("pageview")),
    "page_url": ("pageview", lambda value: value.endswith(f"/prices?{UTM}")),
    "page_path": ("pageview", one_of("/prices")),
    "event_time": ("pageview", is_now),
    "page_title": ("pageview", one_of("Prices")),
    "page_referrer": ("pageview", lambda value: value.startswith("http://www.") and value.endswith("/")),
    "scroll_depth": ("scroll", one_of(25, 50, 75, 100)),
    "time_on_page": ("heartbeat", is_number(15, 120)),
    "engaged_time": ("heartbeat", is_number(15, 120)),
    "lcp": ("cwv", is_number(1, 30_000)),
    "fid": ("cwv", is_number(0, 5_000)),
    "cls": ("cwv", is_number(0, 2)),
    "ttfb": ("cwv", is_number(1, 30_000)),
    "inp": ("cwv", is_number(0, 5_000)),
    **{f"utm_{n}": ("pageview", one_of(f"the-{n}")) for n in ("source", "medium", "campaign", "term", "content")},
    "traffic_source": ("pageview", one_of("internal")),
    "device_type": ("click", one_of("desktop", "laptop")),
    "browser": ("click", one_of("Chrome", "Firefox", "Safari")),
    "browser_version": ("pageview", lambda value: value[0].isdigit()),
    "os": ("click", one_of("Linux")),
    "os_version": ("pageview", is_text),
    "screen_width": ("pageview", is_number(500, 10_000)),
    "screen_height": ("pageview", is_number(500, 10_000)),
    "language": ("pageview", one_of("en-US", "en-GB", "en", "C")),
    "timezone": ("pageview", is_text),
    "referrer_domain": ("pageview", lambda value: value.endswith(".localhost") or ".localhost:" in value),
    "is_entry": ("pageview", one_of(True)),
    "is_exit": ("exit", one_of(True)),
    "visible": ("click", one_of(True)),
    "max_scroll_depth": ("exit", PERCENT),
    "click_x": ("click", is_number(1, 1_000)),
    "click_y": ("click", is_number(21, 800)),
    "click_element": ("click", is_text),
    "click_element_tag": ("click", one_of("button")),
    "click_element_id": ("click", one_of("dead")),
    "click_element_class": ("click", one_of("buy big")),
    "click_element_text": ("click", one_of("Buy now")),
    "click_target_url": ("outbound_link", one_of("https://partner.example/offer")),
    "click_count": ("rage_click", one_of(3)),
    "viewport_width": ("click", is_number(800, 1_300)),
    "viewport_height": ("click", is_number(400, 1_100)),
    "file_name": ("file_download", one_of("Price list.PDF")),
    "file_extension": ("file_download", one_of("pdf")),
    "file_url": ("file_download", lambda value: value.endswith("/files/Price%20list.PDF")),
    "copied_text": ("copy", one_of("Seven euros")),
    "scroll_behavior": ("scroll", one_of("reading", "skimming", "jumping")),
    "form_id": ("form_start", one_of("order")),
    "form_name": ("form_start", one_of("order-form")),
    "field_name": ("form_field", one_of("email")),
    "field_type": ("form_field", one_of("email")),
    "field_time": ("form_field", is_number(2, 60)),
    "error_message": ("form_error", one_of("typeMismatch")),
    "form_completion_rate": ("form_field", one_of(50)),
}
# What stays empty: vitals that an engine does not measure, and the version of Linux, which browsers do not tell.
UNKNOWN = {
    "chromium": {"os_version"},
    "firefox": {"os_version", "cls"},
    "webkit": {"os_version", "cls", "lcp", "fid", "inp"},
}


def make_visit(visit: Visit) -> None:
    """Do all of it. The clock makes it short.

    The page stops its links. A download would take the focus in Firefox, and in WebKitGTK a `fetch` that is under way
    when one begins never ends.
    """
    browser = visit.browser
    visit.page(
        BODY, "/prices", title="Prices", csp=POLICY, before=SCRIPT, clock=True, attributes={"on": "heatmap_click"}
    )
    visit.page(f"<a id=next href='{visit.origin()}/prices?{UTM}&secret=1#part'>Prices</a>", tracker=False)
    visit.go("/", host="www")
    browser.click("#next")
    visit.wait("pageview")

    browser.click("#dead")
    visit.wait("click")
    visit.advance(3)
    browser.click("#dead", times=3, pause_ms=20)
    visit.advance(16)
    visit.wait("heartbeat")
    for link in ("#out", "#mail", "#call", "#file", "#text"):
        browser.click(link)
    visit.wait("heatmap_click")
    browser.run("getSelection().selectAllChildren(document.querySelector('#text'))")
    browser.press("c", hold=Key.CONTROL)
    visit.wait("copy")

    browser.click("#email")
    browser.press("nobody")
    visit.advance(2)
    browser.press(Key.TAB)
    browser.click("#send")
    visit.wait("form_error")
    browser.find("#email").type("@shop.example")
    browser.click("#send")
    visit.wait("form_submit")
    browser.click("#note")
    browser.press("x")
    browser.wheel(1500)
    visit.wait("scroll")
    with visit.hidden():
        visit.wait("time_on_page")
    visit.leave()
    visit.wait("exit")
    visit.wait("form_abandon")


def test_all_types_arrive_in_parquet_with_every_field_that_a_browser_knows(visit: Visit, engine: Engine) -> None:
    make_visit(visit)
    visit.answered()
    events = visit.events()
    assert set() == TYPES - {event["event_type"] for event in events}
    stored = [each.event for each in visit.requests("POST") if each.status == 201]
    assert len(events) == len(stored)
    assert [] == differences(stored, visit.rows())
    wrong = {
        name: sorted({(event["event_type"], event[name]) for event in events if event.get(name) is not None})
        for name, (kind, is_right) in EXPECTED.items()
        if name not in UNKNOWN[engine.name] and not any(fits(event, kind, name, is_right) for event in events)
    }
    assert {} == wrong
    filled = {name for event in events for name, value in event.items() if value is not None}
    assert UNKNOWN[engine.name] == FIELDS - filled
    assert set() == filled - FIELDS
    assert "secret" not in json.dumps(events)


def fits(event: Event, kind: str, name: str, is_right: Callable[[Any], bool]) -> bool:
    return event["event_type"] == kind and event.get(name) is not None and is_right(event[name])


def test_table_has_every_field_of_the_contract() -> None:
    assert FIELDS == set(EXPECTED)
