"""The pageview, its fields, and the address that every event of a page has."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.tracker.visits import Visit


def views(visit: Visit, of: dict[str, tuple[str, str]], **attributes: Any) -> dict[str, dict[str, Any]]:
    """The pageviews of pages in frames of one page, by name. Each has a query, and the referrer it believes in."""
    for name, (_, referrer) in of.items():
        believe = f"Object.defineProperty(document, 'referrer', {{get: () => {json.dumps(referrer)}}});"
        visit.page("", f"/{name}", attributes=attributes, before=believe)
    frames = "".join(f"<iframe width=9 height=9 src='/{name}{query}'></iframe>" for name, (query, _) in of.items())
    visit.open(frames, "/frames", tracker=False)
    return {event["page_path"].strip("/"): event for event in visit.wait("pageview", len(of))}


# The address


ADDRESSES = [
    ("/", {}, "/", "/"),
    ("/shop/shoes", {}, "/shop/shoes", "/shop/shoes"),
    ("/shop?q=secret&session=1", {}, "/shop", "/shop"),
    ("/shop?utm_source=news&q=secret&utm_term=red+shoes", {}, "/shop?utm_source=news&utm_term=red+shoes", "/shop"),
    ("/shop?xutm_source=1&UTM_SOURCE=2&utmsource=3", {}, "/shop", "/shop"),
    ("/shop?q=shoes&page=2", {"query": "all"}, "/shop?q=shoes&page=2", "/shop"),
    ("/shop?q=shoes", {"query": "none"}, "/shop", "/shop"),
    ("/shop#part", {}, "/shop", "/shop"),
    ("/shop?q=1#token=secret", {"query": "all"}, "/shop?q=1", "/shop"),
    ("/shop#/shoes", {"spa": "path"}, "/shop", "/shop"),
    ("/shop#/shoes?q=secret", {"spa": "hash"}, "/shop#/shoes", "/shop#/shoes"),
    ("/shop#!/shoes", {"spa": "hash"}, "/shop#!/shoes", "/shop#!/shoes"),
    ("/shop#token=secret", {"spa": "hash"}, "/shop", "/shop"),
    ("/shop?q=secret&utm_source=a", {"spa": "search"}, "/shop?utm_source=a", "/shop?utm_source=a"),
    ("/shop?q=shoes", {"spa": "search", "query": "all"}, "/shop?q=shoes", "/shop?q=shoes"),
    ("/caf%C3%A9", {}, "/caf%C3%A9", "/caf%C3%A9"),
]


@pytest.mark.parametrize(("opened", "attributes", "url", "path"), ADDRESSES, ids=[f"{a} {b}" for a, b, *_ in ADDRESSES])
def test_page_url_and_path(visit: Visit, opened: str, attributes: dict[str, str], url: str, path: str) -> None:
    """Of the query only utm_ parameters stay, of the fragment only a route, unless the site says otherwise."""
    visit.page(path=opened.partition("?")[0].partition("#")[0], attributes=attributes)
    visit.go(opened)
    sent = visit.first("pageview")
    assert (visit.origin() + url, path) == (sent["page_url"], sent["page_path"])


def test_every_event_has_the_address(visit: Visit) -> None:
    visit.open("<button id=buy>Buy</button>", "/shop", query="?utm_source=news&q=secret")
    visit.browser.click("#buy")
    visit.wait("click")
    visit.leave()
    visit.wait("exit")
    assert {(visit.origin() + "/shop?utm_source=news", "/shop")} == {
        (event["page_url"], event["page_path"]) for event in visit.events()
    }


def test_address_and_title_are_cut_by_characters(visit: Visit) -> None:
    """To 2,048, 1,024 and 500. A character of two UTF-16 units, such as an emoji, is not cut in half."""
    path = "/" + "p" * 1_500
    visit.open(path=path, query="?utm_source=" + "s" * 3_000, title="T" + "\U0001f600" * 600)
    sent = visit.first("pageview")
    assert (2_048, 1_024) == (len(sent["page_url"]), len(sent["page_path"]))
    assert "T" + "\U0001f600" * 499 == sent["page_title"]
    assert "s" * 255 == sent["utm_source"]


def test_user_in_the_address_is_not_sent(visit: Visit) -> None:
    visit.page()
    visit.browser.open(visit.origin().replace("://", "://ann:secret@") + "/")
    assert visit.origin() + "/" == visit.first("pageview")["page_url"]
    assert b"secret" not in visit.requests()[0].body


# What else a pageview has


def test_pageview_has_what_the_browser_says(visit: Visit) -> None:
    visit.open(title="Prices")
    sent = visit.first("pageview")
    languages, screen, agent, zone = visit.browser.run(
        "return [navigator.language, [screen.width, screen.height], navigator.userAgent,"
        "Intl.DateTimeFormat().resolvedOptions().timeZone]"
    )
    viewport = visit.browser.run("return [innerWidth, innerHeight]")
    version = {"chromium": "Chrome/", "firefox": "Firefox/", "webkit": "Version/"}[visit.engine.name]
    assert "Prices" == sent["page_title"]
    assert [languages, zone] == [sent["language"], sent["timezone"]]
    assert ZoneInfo(sent["timezone"])
    assert screen == [sent["screen_width"], sent["screen_height"]]
    assert viewport == [sent["viewport_width"], sent["viewport_height"]]
    assert agent.partition(version)[2].split()[0] == sent["browser_version"]
    names = {"chromium": "Chrome", "firefox": "Firefox", "webkit": "Safari"}
    assert (names[visit.engine.name], "Linux") == (sent["browser"], sent["os"])
    assert (True, True) == (sent["visible"], sent["is_entry"])


def test_fields_of_a_pageview_alone_are_not_on_other_events(visit: Visit) -> None:
    visit.open("<button id=buy>Buy</button>", query="?utm_source=news")
    visit.browser.click("#buy")
    only = {
        "page_title", "page_referrer", "referrer_domain", "traffic_source", "utm_source", "browser_version",
        "os_version", "screen_width", "screen_height", "language", "timezone", "is_entry",
    }  # fmt: skip
    assert only <= set(visit.first("pageview"))
    assert set() == only & set(visit.first("click"))
    every = {"session_id", "visitor_id", "page_url", "page_path", "visible", "device_type", "browser", "os"}
    assert every | {"viewport_width", "viewport_height"} <= set(visit.first("click"))


def test_second_pageview_of_a_session_is_no_entry(visit: Visit) -> None:
    visit.open()
    visit.wait("pageview")
    visit.open(path="/next")
    assert [True, False] == [event["is_entry"] for event in visit.wait("pageview", 2)]


def test_title_that_a_script_sets_late_is_sent(visit: Visit) -> None:
    """Apps set it once their first data are there; the pageview waits a moment."""
    visit.open(title="Loading", before="addEventListener('load', () => setTimeout(() => document.title = 'Shoes', 20))")
    assert "Shoes" == visit.first("pageview")["page_title"]


def test_mail_address_in_the_title_is_masked(visit: Visit) -> None:
    visit.open(title="Inbox of ann@example.com", query="?utm_content=bob@example.com")
    sent = visit.first("pageview")
    assert ("Inbox of ***", "***") == (sent["page_title"], sent["utm_content"])


def test_pageview_is_first_and_once(visit: Visit) -> None:
    """A click before its time brings it forward."""
    visit.open("<button id=buy>Buy</button>", before="addEventListener('load', () => buy.click())")
    visit.browser.click("#buy")
    visit.wait("click")
    visit.leave()
    visit.wait("exit")
    assert ("pageview", 1) == (visit.types()[0], visit.types().count("pageview"))


def test_event_time_is_when_the_page_was_shown(visit: Visit) -> None:
    """Not when the pageview was sent: here, a second after."""
    start = datetime.now(UTC)
    visit.open(attributes={"consent": "required"}, clock=True)
    visit.advance(60)
    visit.browser.run("window.collector.consent(true)")
    sent = datetime.fromisoformat(visit.first("pageview")["event_time"])
    assert timedelta(0) <= sent - start + timedelta(milliseconds=1) < timedelta(seconds=10)


# Where the visitor came from


def test_referrer_goes_without_query_and_fragment(visit: Visit) -> None:
    visit.page("<a id=next href='/next'>Next</a>", "/from", tracker=False)
    visit.page("", "/next")
    visit.go("/from?token=secret#secret")
    visit.browser.click("#next")
    sent = visit.first("pageview")
    assert visit.origin() + "/from" == sent["page_referrer"]
    assert visit.origin().partition("://")[2] == sent["referrer_domain"]
    assert "internal" == sent["traffic_source"]
    assert b"secret" not in visit.requests()[0].body


def test_page_without_a_referrer_is_direct(visit: Visit) -> None:
    visit.open()
    sent = visit.first("pageview")
    assert [None, None, "direct"] == [sent["page_referrer"], sent["referrer_domain"], sent["traffic_source"]]
    assert [] == [name for name in sent if name.startswith("utm_")]


def test_campaign_is_read_from_the_query(visit: Visit) -> None:
    visit.open(
        query="?utm_source=news&utm_medium=e-mail&utm_campaign=spring%20sale&utm_term=a+b&utm_content=%C3%A9&utm_id=7"
    )
    expected = {"source": "news", "medium": "e-mail", "campaign": "spring sale", "term": "a b", "content": "\u00e9"}
    sent = visit.first("pageview")
    assert {f"utm_{name}": value for name, value in expected.items()} == {
        name: value for name, value in sent.items() if name.startswith("utm_")
    }


SOURCES = {
    "google": ("", "https://www.google.com/", "organic"),
    "google-abroad": ("", "https://www.google.co.uk/", "organic"),
    "bing": ("", "https://www.bing.com/search", "organic"),
    "brave": ("", "https://search.brave.com/", "organic"),
    "facebook": ("", "https://l.facebook.com/", "social"),
    "short": ("", "https://t.co/abc", "social"),
    "not-short": ("", "https://chat.co/abc", "referral"),
    "linkedin": ("", "https://www.linkedin.com/", "social"),
    "gmail": ("", "https://mail.google.com/mail/u/0/", "email"),
    "outlook": ("", "https://outlook.live.com/", "email"),
    "chatgpt": ("", "https://chatgpt.com/", "ai"),
    "perplexity": ("", "https://www.perplexity.ai/", "ai"),
    "gemini": ("", "https://gemini.google.com/", "ai"),
    "blog": ("", "https://blog.example.org/post", "referral"),
    "app": ("", "android-app://com.example.reader/", "referral"),
    "paid-search": ("?gclid=x", "https://www.google.com/", "paid"),
    "paid-social": ("?ttclid=x", "https://www.tiktok.com/", "paid"),
    "no-click-id": ("?fbclid=x", "https://www.facebook.com/", "social"),
    "cpc": ("?utm_source=google&utm_medium=cpc", "https://www.google.com/", "paid"),
    "upper-case": ("?utm_medium=CPC", "", "paid"),
    "newsletter": ("?utm_medium=newsletter", "", "email"),
    "e-mail": ("?utm_medium=e-mail", "https://www.bing.com/", "email"),
    "social-medium": ("?utm_medium=social", "", "social"),
    "other-medium": ("?utm_medium=qr", "", "direct"),
    "medium-wins": ("?utm_medium=email&gclid=x", "https://blog.example.org/", "email"),
}


def test_traffic_source(visit: Visit) -> None:
    """What the campaign says of itself, then click ids, then the referrer's host."""
    sent = views(visit, {name: (query, referrer) for name, (query, referrer, _) in SOURCES.items()})
    assert {name: source for name, (_, _, source) in SOURCES.items()} == {
        name: event["traffic_source"] for name, event in sent.items()
    }


def test_referrer_domain_is_its_host_without_www(visit: Visit) -> None:
    referrers = {
        "www": ("https://www.shop.example.org/a?b#c", "https://www.shop.example.org/a", "shop.example.org"),
        "port": ("https://shop.example.org:8443/", "https://shop.example.org:8443/", "shop.example.org:8443"),
        "www-inside": ("https://my.www.example.org/", "https://my.www.example.org/", "my.www.example.org"),
    }
    sent = views(visit, {name: ("", referrer) for name, (referrer, *_) in referrers.items()})
    assert {name: expected for name, (_, *expected) in referrers.items()} == {
        name: [event["page_referrer"], event["referrer_domain"]] for name, event in sent.items()
    }


# What the page may say


def test_automated_browser_sends_nothing_unless_the_tag_allows_it(visit: Visit) -> None:
    visit.open("<button id=buy>Buy</button>", attributes={"automation": None})
    visit.browser.click("#buy")
    assert False is visit.browser.run("return window.collector.isEnabled()")
    visit.open(path="/next")
    assert "/next" == visit.first("pageview")["page_path"]


def test_without_auto_only_what_the_page_calls_is_sent(visit: Visit) -> None:
    visit.open(
        "<button id=buy>Buy</button><div style='height: 5000px'></div>", attributes={"auto": "false"}, title="Prices"
    )
    visit.browser.click("#buy")
    visit.browser.run("scrollTo(0, 9999); history.pushState(0, '', '/other')")
    visit.settle()
    visit.browser.run("window.collector.trackPageview({page_title: 'Called'})")
    visit.wait("pageview")
    visit.browser.run("window.collector.trackPageview()")
    visit.wait("pageview", 2)
    visit.leave()
    visit.open(path="/next")
    visit.wait("pageview", 3)
    visit.settle()
    assert ["pageview", "pageview", "pageview"] == visit.types()
    assert ["Called", "Prices"] == [event["page_title"] for event in visit.events()[:2]]
    assert ["/other", "/other", "/next"] == [event["page_path"] for event in visit.events()]


def test_page_may_name_its_own_view(visit: Visit) -> None:
    """Called before the pageview was sent, its fields are added; called after, a new view begins."""
    stub = "window.collector = {q: [['trackPageview', {page_title: 'Named', utm_source: 'page'}]]}"
    visit.open(before=stub)
    sent = visit.first("pageview")
    assert ("Named", "page") == (sent["page_title"], sent["utm_source"])
    visit.browser.run("window.collector.trackPageview({page_title: 'Again'})")
    assert "Again" == visit.last("pageview", 2)["page_title"]
    assert ["pageview", "exit", "pageview"] == [each for each in visit.types() if each in ("pageview", "exit")]
