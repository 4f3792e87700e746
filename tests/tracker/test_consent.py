"""Consent: what is sent and stored before it, after it, and once it is revoked."""

import json
from typing import Any

import pytest

from tests.tracker.visits import Visit

NOW = "collector.consent(true)"
NEVER = "collector.consent(false)"
CUSTOM = "collector.trackEvent({type: arguments[0]})"


def cookies(visit: Visit) -> set[str]:
    return set(visit.browser.cookies())


def test_required_sends_and_stores_nothing_before_consent(visit: Visit) -> None:
    """Not even when the visitor clicks, or when the page is hidden or left."""
    visit.open("<button id=buy>Buy</button>", attributes={"consent": "required"})
    visit.browser.click("#buy")
    with visit.hidden():
        visit.browser.run(CUSTOM, "early")
    visit.leave()
    visit.go("/")
    assert set() == cookies(visit)
    assert [0, 0] == visit.browser.run("return [localStorage.length, sessionStorage.length]")
    assert [] == visit.requests()
    visit.browser.run(NOW)
    assert "pageview" == visit.wait_for(bool, "an event")[0]["event_type"]
    assert {"_cvid", "_csid"} == cookies(visit)


@pytest.mark.parametrize("mode", ["Required", "cookie-less", "yes"])
def test_unknown_mode_waits_for_consent(visit: Visit, mode: str) -> None:
    """A typing error must not send what the site has promised to hold back."""
    visit.open("<button id=buy>Buy</button>", attributes={"consent": mode})
    visit.browser.click("#buy")
    visit.leave()
    visit.go("/")
    assert (set(), []) == (cookies(visit), visit.requests())
    visit.browser.run(NOW)
    visit.first("pageview")


def test_late_consent_sends_the_pageview_of_before(visit: Visit) -> None:
    """With the time at which the page was seen, and as the entry that it was. What else came before is not told."""
    visit.open("<button id=buy>Buy</button>", attributes={"consent": "required"}, clock=True)
    seen_by = visit.browser.run("return new Date().toISOString()")
    visit.browser.click("#buy")
    visit.advance(10)
    visit.browser.run(NOW)
    pageview = visit.first("pageview")
    assert pageview["event_time"] <= seen_by
    assert (True, "cookie") == (pageview["is_entry"], pageview["visitor_id_source"])
    visit.browser.run(CUSTOM, "late")
    assert "late" == visit.first("click")["click_element_id"]
    assert ["pageview", "click"] == visit.types()


def test_consent_holds_on_the_next_page(visit: Visit) -> None:
    visit.open(attributes={"consent": "required"})
    visit.browser.run(NOW)
    first = visit.first("pageview")
    visit.browser.reload()
    second = visit.last("pageview", 2)
    assert first["visitor_id"] == second["visitor_id"]
    assert [True, False] == [first["is_entry"], second["is_entry"]]


@pytest.mark.parametrize("mode", ["cookieless", "none"])
def test_consent_given_late_keeps_the_entry(visit: Visit, mode: str) -> None:
    """The pageview went without a cookie, so the session that begins with the cookie has had its entry."""
    gpc = "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', {get: () => true});"
    visit.open(attributes={"consent": mode}, before=gpc if mode == "none" else "")
    assert (True, "fingerprint") == (
        visit.first("pageview")["is_entry"],
        visit.first("pageview")["visitor_id_source"],
    )
    assert set() == cookies(visit)
    visit.browser.run(NOW)
    visit.browser.run(CUSTOM, "late")
    assert "cookie" == visit.first("click")["visitor_id_source"]
    visit.browser.reload()
    second = visit.last("pageview", 2)
    assert (False, "cookie") == (second["is_entry"], second["visitor_id_source"])
    assert visit.first("click")["visitor_id"] == second["visitor_id"]


@pytest.mark.parametrize("mode", ["none", "cookieless"])
def test_revoked_consent_deletes_the_cookies_and_holds_on_the_next_page(visit: Visit, mode: str) -> None:
    visit.open(attributes={"consent": mode})
    visit.browser.run(NOW)
    visit.browser.run(CUSTOM, "agreed")
    visit.wait("click")
    assert {"_cvid", "_csid"} == cookies(visit)
    visit.browser.run(NEVER)
    assert set() == cookies(visit)
    visit.browser.run(CUSTOM, "refused")
    assert ["cookie", "fingerprint"] == [event["visitor_id_source"] for event in visit.wait("click", 2)]
    visit.browser.reload()
    assert "fingerprint" == visit.last("pageview", 2)["visitor_id_source"]
    assert set() == cookies(visit)


def test_revoked_consent_stops_all_where_it_is_required(visit: Visit) -> None:
    visit.open("<button id=buy>Buy</button>", attributes={"consent": "required"})
    visit.browser.run(NOW)
    visit.wait("pageview")
    visit.browser.run(NEVER)
    visit.browser.click("#buy")
    visit.browser.reload()
    assert set() == cookies(visit)
    visit.browser.run(NOW)
    visit.wait("pageview", 2)
    assert ["pageview", "pageview"] == visit.types()


def test_revoked_consent_drops_what_waits(visit: Visit) -> None:
    """What could not be sent yet is not sent any more."""
    visit.open(clock=True).first("pageview")
    visit.fail(headers={"Retry-After": "5"})
    visit.browser.run(CUSTOM, "waits")
    visit.wait("click")
    visit.settle()
    visit.mend()
    visit.browser.run(NEVER)
    visit.advance(10)
    visit.browser.run(CUSTOM, "after")
    assert ["waits", "after"] == [event["click_element_id"] for event in visit.wait("click", 2)]


@pytest.mark.parametrize(
    ("text", "granted"),
    [
        ('{"analytics": true}', True),
        ('{"analytics": false}', False),
        ('{"version": 2, "choices": {"necessary": true, "analytics": true}}', True),
        ('{"choices": {"analytics": false}}', False),
        ('{"analytics": true, "choices": {"analytics": false}}', True),
        ('{"a": null, "b": "x", "c": [1], "choices": {"analytics": true}}', True),
        ('{"deep": {"choices": {"analytics": true}}}', False),
        ('{"analytics": "true"}', False),
        ('{"analytics": 1}', False),
        ("{", False),
        ("", False),
        ("null", False),
        ("true", False),
        ("[]", False),
    ],
)
def test_consent_of_the_vendors_manager_is_read(visit: Visit, text: str, granted: bool) -> None:
    """The first boolean `analytics`, at the top or one level below. Everything else is no answer."""
    visit.open(attributes={"consent": "required"}, before=f"localStorage.setItem('_lkw_consent', {json.dumps(text)})")
    assert granted is visit.browser.run("return collector.isEnabled()")
    visit.browser.run("window.collector.consent(true)")
    visit.wait("pageview")


def test_refusal_counts_against_an_older_yes_of_the_vendors_manager(visit: Visit) -> None:
    visit.page(before="localStorage.setItem('_lkw_consent', '{\"analytics\": true}')")
    visit.go("/")
    assert "cookie" == visit.first("pageview")["visitor_id_source"]
    visit.browser.run(NEVER)
    visit.leave()
    visit.go("/")
    assert "fingerprint" == visit.last("pageview", 2)["visitor_id_source"]
    assert set() == cookies(visit)


def test_refusal_of_the_vendors_manager_is_heeded(visit: Visit) -> None:
    """Where cookies would be set without an answer."""
    visit.open(before="localStorage.setItem('_lkw_consent', '{\"choices\": {\"analytics\": false}}')")
    assert "fingerprint" == visit.first("pageview")["visitor_id_source"]
    assert set() == cookies(visit)


UPDATE = """
const [detail, stored] = arguments;
if (stored) localStorage.setItem('_lkw_consent', JSON.stringify(stored));
document.dispatchEvent(new CustomEvent('lynkow:consent:update', {detail}));
"""


@pytest.mark.parametrize(
    ("detail", "stored"),
    [
        ({"analytics": True}, None),
        ({"consents": {"necessary": True, "analytics": True}}, None),
        (None, {"analytics": True}),
        ({"id": 7}, {"choices": {"analytics": True}}),
    ],
    ids=["detail", "below", "storage", "other detail"],
)
def test_update_of_the_vendors_manager_is_heard(visit: Visit, detail: Any, stored: Any) -> None:
    visit.open(attributes={"consent": "required"})
    assert visit.browser.run("return collector.isEnabled()") is False
    visit.browser.run(UPDATE, detail, stored)
    assert visit.first("pageview")["is_entry"] is True
    assert {"_cvid", "_csid"} == cookies(visit)


def test_revoking_update_of_the_vendors_manager_is_heard(visit: Visit) -> None:
    visit.open().first("pageview")
    visit.browser.run(UPDATE, {"analytics": False}, {"analytics": False})
    assert set() == cookies(visit)
    visit.browser.reload()
    assert "fingerprint" == visit.last("pageview", 2)["visitor_id_source"]


@pytest.mark.parametrize("detail", [None, {}, "x", {"analytics": "yes"}, {"marketing": True}])
def test_update_without_an_answer_changes_nothing(visit: Visit, detail: Any) -> None:
    visit.open().first("pageview")
    visit.browser.run(UPDATE, detail, None)
    visit.browser.run(CUSTOM, "after")
    assert "cookie" == visit.first("click")["visitor_id_source"]


def test_disabled_tracker_sends_nothing_until_it_is_enabled(visit: Visit) -> None:
    visit.open("<button id=buy>Buy</button>").first("pageview")
    assert [True, None, False] == visit.browser.run(
        "const c = window.collector; return [c.isEnabled(), c.disable(), c.isEnabled()]"
    )
    visit.browser.click("#buy")
    visit.browser.run(CUSTOM, "disabled")
    visit.settle()
    assert visit.browser.run("window.collector.enable(); return window.collector.isEnabled()") is True
    visit.browser.run(CUSTOM, "enabled")
    assert "enabled" == visit.first("click")["click_element_id"]


def test_tracker_that_is_disabled_at_once_sends_its_pageview_when_enabled(visit: Visit) -> None:
    visit.open(before="window.collector = {q: [['disable']]};")
    assert visit.browser.run("return collector.isEnabled()") is False
    visit.settle()
    assert ([], set()) == (visit.requests(), cookies(visit))
    visit.browser.run("collector.enable()")
    assert visit.first("pageview")["is_entry"] is True


def test_enabling_is_no_consent(visit: Visit) -> None:
    visit.open(attributes={"consent": "required"})
    visit.browser.run("collector.enable()")
    assert visit.browser.run("return collector.isEnabled()") is False
    visit.browser.run(NOW)
    assert "pageview" == visit.wait_for(bool, "an event")[0]["event_type"]
