"""Who, by cookie: the visitor `_cvid` and the session `_csid`, how long they last, and who shares them."""

import time
from typing import Any

import pytest

from tests.tracker import site as pages
from tests.tracker.recorder import Event
from tests.tracker.site import Resource
from tests.tracker.visits import Visit

VISITOR_S = 395 * 86_400
SESSION_S = 30 * 60
SLACK_S = 60  # between the page's clock and this test's look


def ids(event: Event) -> tuple[str, str]:
    return event["visitor_id"], event["session_id"]


def seconds_left(visit: Visit, name: str) -> float:
    """How long a cookie will live."""
    expiry: float = visit.browser.cookies()[name]["expiry"]
    return expiry - time.time()


def change_cookie(visit: Visit, name: str, rest: str) -> None:
    """Set one of the tracker's cookies anew, with `rest` in place of its value and age."""
    visit.browser.run(
        "document.cookie = `${arguments[0]}=${arguments[1]}; path=/; domain=${location.hostname}`", name, rest
    )


def test_visitor_cookie_lasts_395_days_and_session_cookie_30_minutes(visit: Visit) -> None:
    event = visit.open().first("pageview")
    assert {"_cvid", "_csid"} == set(visit.browser.cookies())
    assert VISITOR_S == pytest.approx(seconds_left(visit, "_cvid"), abs=SLACK_S)
    assert SESSION_S == pytest.approx(seconds_left(visit, "_csid"), abs=SLACK_S)
    assert event["visitor_id"] == event["cookie_visitor_id"] == visit.browser.cookies()["_cvid"]["value"]
    assert "cookie" == event["visitor_id_source"]


def test_cookies_are_for_the_sites_own_pages_only(visit: Visit) -> None:
    """`SameSite=Lax`, and on the registrable domain. Without HTTPS there is no `Secure`."""
    visit.open(path="/deep/page", host="www").first("pageview")
    for cookie in visit.browser.cookies().values():
        assert ("Lax", False, "/") == (cookie["sameSite"], cookie["secure"], cookie["path"])
        assert f"{visit.site}.localhost" == cookie["domain"].lstrip(".")


def test_visitor_cookie_is_renewed_at_the_next_visit(visit: Visit) -> None:
    first = visit.open().first("pageview")
    change_cookie(visit, "_cvid", f"{first['visitor_id']}; max-age=86400")
    visit.browser.reload()
    assert ids(first) == ids(visit.last("pageview", 2))
    assert VISITOR_S == pytest.approx(seconds_left(visit, "_cvid"), abs=SLACK_S)


def test_session_cookie_is_renewed_by_every_event(visit: Visit) -> None:
    """The 30 minutes begin with the last event of any type."""
    visit.open(clock=True).first("pageview")
    change_cookie(visit, "_csid", f"{visit.browser.cookies()['_csid']['value']}; max-age=600")
    visit.advance(5)
    visit.browser.run("collector.trackEvent({type: 'custom'})")
    assert ids(visit.first("pageview")) == ids(visit.first("click"))
    assert SESSION_S == pytest.approx(seconds_left(visit, "_csid"), abs=SLACK_S)


def test_session_ends_when_its_cookie_does(visit: Visit) -> None:
    """After 30 idle minutes the browser has deleted it. The visitor is still the same, and enters anew."""
    first = visit.open().first("pageview")
    change_cookie(visit, "_csid", "; max-age=0")
    visit.browser.reload()
    second = visit.last("pageview", 2)
    assert first["visitor_id"] == second["visitor_id"]
    assert first["session_id"] != second["session_id"]
    assert [True, True] == [first["is_entry"], second["is_entry"]]


def test_page_that_is_open_for_30_idle_minutes_begins_a_new_session(visit: Visit) -> None:
    first = visit.open(clock=True).first("pageview")
    change_cookie(visit, "_csid", "; max-age=0")
    visit.advance(SESSION_S + 1)
    visit.browser.run("collector.trackEvent({type: 'custom'})")
    second = visit.first("click")
    assert first["visitor_id"] == second["visitor_id"]
    assert first["session_id"] != second["session_id"]


def test_is_entry_is_true_once_a_session(visit: Visit) -> None:
    """Not for a reload, for another page, or for another path of a single-page app."""
    visit.page(path="/other")
    visit.open().first("pageview")
    visit.browser.reload()
    visit.wait("pageview", 2)
    visit.go("/other")
    visit.wait("pageview", 3)
    visit.browser.run("history.pushState(null, '', '/third')")
    events = visit.wait("pageview", 4)
    assert [True, False, False, False] == [event["is_entry"] for event in events]
    assert 1 == len({ids(event) for event in events})


def test_only_pageviews_say_whether_they_are_an_entry(visit: Visit) -> None:
    """An entry is a pageview's; another type cannot use it up."""
    visit.open(attributes={"auto": "false"})
    visit.browser.run("collector.trackEvent({type: 'custom'})")
    assert "is_entry" not in visit.first("click")
    visit.browser.run("collector.trackPageview()")
    assert visit.first("pageview")["is_entry"] is True


def test_two_tabs_are_one_session(visit: Visit) -> None:
    visit.page(path="/next")
    visit.open("<a id=next href='/next' target=_blank>Next</a>").first("pageview")
    visit.browser.click("#next")
    visit.wait_for_windows(1)
    events = visit.wait("pageview", 2)
    assert 1 == len({ids(event) for event in events})
    assert [True, False] == [event["is_entry"] for event in events]


def test_www_and_the_bare_host_are_one_visitor(visit: Visit) -> None:
    visit.open(host="www").first("pageview")
    visit.go("/")
    visit.wait("pageview", 2)
    visit.go("/", host="blog.north")
    events = visit.wait("pageview", 3)
    assert 1 == len({ids(event) for event in events})
    assert [True, False, False] == [event["is_entry"] for event in events]


def test_another_domain_is_another_visitor(visit: Visit) -> None:
    """Though it is the same site to the collector."""
    visit.open().first("pageview")
    other = f"{visit.site}-shop"
    tag = pages.script_tag(f"{visit.collector_origin}/public/{visit.site}/t.js", {"automation": True})
    document = pages.page("", title="Shop", head=tag, errors=visit.errors_url)
    visit.servers.serve(other, "/", Resource(document))
    visit.browser.open(f"http://{other}.localhost:{visit.servers.pages_port}/")
    first, second = visit.wait("pageview", 2)
    assert first["visitor_id"] != second["visitor_id"]
    assert first["session_id"] != second["session_id"]


def test_nothing_but_the_two_cookies_is_stored(visit: Visit) -> None:
    visit.open("<button id=buy>Buy</button>")
    visit.browser.click("#buy")
    visit.wait("click")
    with visit.hidden():
        pass
    assert {"_cvid", "_csid"} == set(visit.browser.cookies())
    assert [0, 0] == visit.browser.run("return [localStorage.length, sessionStorage.length]")


@pytest.mark.parametrize(
    ("visitor", "session"),
    [("abc", "s.1"), ("x" * 65, "s.1"), ("a%00b<script>", ".1"), ("visitor+with+plus", "a.b.c"), ("", "")],
    ids=["short", "long", "odd", "plus", "empty"],
)
def test_damaged_cookies_are_replaced(visit: Visit, visitor: str, session: str) -> None:
    """Events stay valid on a strict site, and the next page has the same ids."""
    visit.open(tracker=False)
    change_cookie(visit, "_cvid", visitor)
    change_cookie(visit, "_csid", session)
    visit.open().first("pageview")
    visit.browser.reload()
    first, second = visit.wait("pageview", 2)
    assert ids(first) == ids(second)
    assert visitor != first["visitor_id"]
    assert first["session_id"]


@pytest.mark.parametrize("missing", ["crypto.randomUUID = undefined", "delete Crypto.prototype.randomUUID"])
def test_ids_differ_without_random_uuid(visit: Visit, missing: str) -> None:
    """Pages over plain HTTP do not have it."""
    visit.open(before=missing).first("pageview")
    visit.browser.delete_cookies()
    visit.browser.reload()
    first, second = visit.wait("pageview", 2)
    assert first["visitor_id"] != second["visitor_id"]
    assert first["session_id"] != second["session_id"]


# Cookieless


def stored(visit: Visit) -> list[Any]:
    """All that the page's origin has stored, in any of the places that there are."""
    found: list[Any] = visit.browser.run_async(
        """
        const done = arguments[0];
        (async () => [
          ...document.cookie.split("; ").filter(Boolean), ...Object.keys(localStorage), ...Object.keys(sessionStorage),
          ...((await indexedDB.databases?.()) ?? []).map(each => each.name), ...await caches.keys(), window.name || [],
        ].flat())().then(done, error => done([String(error)]));
        """
    )
    return [*found, *visit.browser.cookies()]


def test_cookieless_stores_nothing_anywhere(visit: Visit) -> None:
    visit.open("<button id=buy>Buy</button>", attributes={"consent": "cookieless"})
    visit.browser.click("#buy")
    visit.wait("click")
    with visit.hidden():
        pass
    visit.browser.reload()
    visit.wait("pageview", 2)
    assert [] == stored(visit)


def test_what_is_stored_would_be_found(visit: Visit) -> None:
    """The check of the test above can fail."""
    visit.open().first("pageview")
    visit.browser.run("localStorage.kept = sessionStorage.too = 1")
    assert {"_cvid", "_csid", "kept", "too"} == {each.partition("=")[0] for each in stored(visit)}


def test_cookieless_visitor_is_a_hash_that_is_the_same_all_day(visit: Visit) -> None:
    visit.open(attributes={"consent": "cookieless"}).first("pageview")
    visit.leave()
    visit.go("/")
    first, second = visit.wait("pageview", 2)
    assert [("fingerprint", None)] * 2 == [(e["visitor_id_source"], e["cookie_visitor_id"]) for e in (first, second)]
    is_same_day = first["event_time"][:10] == second["event_time"][:10]  # UTC
    assert is_same_day == (ids(first) == ids(second))


def test_cookieless_visitor_is_another_one_the_next_day(visit: Visit) -> None:
    first = visit.open(attributes={"consent": "cookieless"}, clock=True).first("pageview")
    visit.advance(86_400 - time.time() % 86_400 + 1)
    visit.browser.run("collector.trackEvent({type: 'custom'})")
    assert first["visitor_id"] != visit.first("click")["visitor_id"]


def test_cookieless_visitor_is_another_one_on_another_site(visit: Visit) -> None:
    """Though the browser, the page and the day are the same."""
    visit.open(attributes={"consent": "cookieless"}).first("pageview")
    other = f"{visit.site}-other"
    visit.open(attributes={"consent": "cookieless", "site": other})
    recorder = visit.servers.recorder
    assert recorder.wait(lambda: any(each.is_event for each in recorder.received(other)), 10)
    assert visit.first("pageview")["visitor_id"] != recorder.received(other)[0].event["visitor_id"]


def test_cookieless_entry_is_told_by_the_referrer(visit: Visit) -> None:
    """Without cookies, a page of the same site before this one means that the visit has begun already."""
    visit.page("<a id=next href='/next'>Next</a>", attributes={"consent": "cookieless"})
    visit.page(path="/next", attributes={"consent": "cookieless"})
    visit.go("/")
    visit.wait("pageview")
    visit.browser.click("#next")
    assert [True, False] == [event["is_entry"] for event in visit.wait("pageview", 2)]


GPC = "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', {get: () => true, configurable: true});"


def test_global_privacy_control_makes_none_to_cookieless(visit: Visit) -> None:
    visit.open(before=GPC)
    assert "fingerprint" == visit.first("pageview")["visitor_id_source"]
    assert [] == stored(visit)


def test_consent_that_is_given_outweighs_global_privacy_control(visit: Visit) -> None:
    """It is the more specific answer, given to this site."""
    visit.open(before=GPC).first("pageview")
    visit.browser.run("collector.consent(true); collector.trackEvent({type: 'custom'})")
    assert "cookie" == visit.first("click")["visitor_id_source"]
