"""Pages that cannot store anything: the events are valid on a strict site, and the page has no uncaught error.

`Visit` looks for refused events and for errors at the end of each test.
"""

from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import Any

import pytest

from tests.tracker import site as pages
from tests.tracker.engines import Engine
from tests.tracker.recorder import Event
from tests.tracker.visits import Visit

BUTTON = "<button id=buy>Buy</button>"


def is_cookieless(event: Event) -> bool:
    return (event["visitor_id_source"], event["cookie_visitor_id"]) == ("fingerprint", None)


def test_cookies_that_are_off_by_preference(engine: Engine, fresh_visit: Callable[..., Visit]) -> None:
    """As cookieless. The ids stay the same from page to page."""
    block = {"profile.default_content_setting_values.cookies": 2, "profile.managed_default_content_settings.cookies": 2}
    capabilities: dict[str, dict[str, Any]] = {
        "chromium": {"goog:chromeOptions": {"prefs": block}},
        "firefox": {"moz:firefoxOptions": {"prefs": {"network.cookie.cookieBehavior": 2}}},
        "webkit": {"webkitgtk:browserOptions": {"args": ["--cookies-policy=never"]}},
    }
    visit = fresh_visit(**capabilities[engine.name])
    visit.open(BUTTON).first("pageview")
    if visit.browser.run("document.cookie = 'probe=1'; return document.cookie"):
        pytest.skip(f"{engine.name} has cookies under its driver, whatever the preference")
    visit.browser.click("#buy")
    visit.wait("click")
    visit.browser.reload()
    first, second = visit.wait("pageview", 2)
    assert is_cookieless(first)
    assert first["visitor_id"] == second["visitor_id"]
    assert (True, False) == (first["is_entry"], second["is_entry"])


BLOCKED = {
    "cookies ignored": "Object.defineProperty(document, 'cookie', {get: () => '', set() {}});",
    "cookies throw": "{ const refuse = () => { throw new DOMException('x', 'SecurityError') };"
    "Object.defineProperty(document, 'cookie', {get: refuse, set: refuse}); }",
}


@pytest.mark.parametrize("script", BLOCKED.values(), ids=BLOCKED)
def test_blocked_cookies_make_the_visit_cookieless(visit: Visit, script: str) -> None:
    event = visit.open(BUTTON, before=script).first("pageview")
    assert is_cookieless(event)
    visit.browser.click("#buy")
    assert event["session_id"] == visit.first("click")["session_id"]
    visit.browser.run("window.collector.consent(true); window.collector.consent(false)")
    with visit.hidden():
        pass


THROWING = """
for (const name of ["localStorage", "sessionStorage", "indexedDB"])
  Object.defineProperty(window, name, {get() { throw new DOMException("x", "SecurityError") }});
"""


@pytest.mark.parametrize("mode", ["none", "cookieless", "required"])
def test_local_storage_that_throws_only_makes_the_answer_forgotten(visit: Visit, mode: str) -> None:
    """Consent holds for the page."""
    visit.open(BUTTON, before=THROWING, attributes={"consent": mode})
    visit.browser.run("window.collector.consent(true); window.collector.trackEvent({type: 'agreed'})")
    assert "cookie" == visit.first("click")["visitor_id_source"]
    visit.browser.run("document.dispatchEvent(new CustomEvent('lynkow:consent:update'))")
    visit.browser.run("window.collector.consent(false)")
    assert {} == visit.browser.cookies()


def test_local_storage_that_is_full_only_makes_the_answer_forgotten(visit: Visit) -> None:
    full = "Storage.prototype.setItem = () => { throw new DOMException('x', 'QuotaExceededError') };"
    visit.open(before=full, attributes={"consent": "required"})
    visit.browser.run("window.collector.consent(true)")
    assert "cookie" == visit.first("pageview")["visitor_id_source"]


def document(visit: Visit) -> str:
    """A page that can be opened without a server."""
    source = f"{visit.collector_origin}/public/{visit.site}/t.js"
    tag = pages.script_tag(source, {"automation": True})
    return pages.page(BUTTON, title="Frame", head=tag, errors=visit.errors_url).decode()


@pytest.mark.parametrize("frame", ["src", "srcdoc"])
@pytest.mark.parametrize("sandbox", ["allow-scripts", "allow-scripts allow-same-origin", None])
def test_frame_sends_valid_events(visit: Visit, frame: str, sandbox: str | None) -> None:
    """A sandboxed one has the origin `null`, and neither cookies nor storage."""
    visit.page(BUTTON, "/inner")
    content = "src='/inner'" if frame == "src" else f'srcdoc="{escape(document(visit))}"'
    limits = "" if sandbox is None else f"sandbox='{sandbox}'"
    visit.open(f"<iframe id=frame {limits} {content}></iframe>", tracker=False)
    event = visit.first("pageview")
    assert (sandbox == "allow-scripts") == is_cookieless(event)
    assert ("/inner" if frame == "src" else "/") == event["page_path"]
    with visit.browser.frame("#frame"):
        visit.browser.click("#buy")
        visit.wait("click")
        visit.browser.run("window.collector.consent(true); window.collector.consent(false)")


def test_data_page_sends_valid_events_without_its_content(visit: Visit) -> None:
    """Its address is its content, so that is not sent."""
    content = b64encode(document(visit).encode()).decode()
    visit.browser.open(f"data:text/html;base64,{content}")
    event = visit.first("pageview")
    assert is_cookieless(event)
    assert ("/", None) == (event["page_path"], event.get("page_url"))
    visit.browser.click("#buy")
    visit.wait("click")
    assert all(content[:40].encode() not in request.body for request in visit.requests())
