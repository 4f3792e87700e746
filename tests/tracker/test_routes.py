"""Single-page apps: what makes a new page, and what belongs to the old one."""

from typing import Any

import pytest

from tests.tracker.visits import Visit

LONG = "<div style='height: 4000px'></div>"
FORM = "<form id=order><input id=name name=name></form>"


def start(visit: Visit, body: str = "", path: str = "/", query: str = "", **page: Any) -> None:
    """Open a page, and wait for its pageview."""
    visit.open(body, path, query=query, delay_s=0.02, **page)  # WebKitGTK has no TTFB if the response takes no time
    visit.wait("pageview")


def push(visit: Visit, url: str, title: str | None = None) -> None:
    """Go to a route as apps do: change the address, then the title."""
    rename = "" if title is None else "setTimeout(() => document.title = arguments[1], 30)"
    visit.browser.run(f"history.pushState(null, '', arguments[0]); {rename}", url, title)


def paths(visit: Visit, kind: str = "pageview") -> list[str]:
    return [event["page_path"] for event in visit.events(kind)]


# What makes a new page

ROUTES = [
    # data-spa, address, what the app does, the new path or None
    ("path", "/", "history.pushState(null, '', '/next')", "/next"),
    ("path", "/", "history.replaceState(null, '', '/next')", "/next"),
    ("path", "/", "history.pushState(null, '', '/next?q=1#part')", "/next"),
    ("path", "/shop", "history.pushState(null, '', '?q=1')", None),
    ("path", "/shop", "history.replaceState({scroll: 7}, '')", None),
    ("path", "/shop", "history.pushState(null, '', '#part')", None),
    ("path", "/shop", "location.hash = '#/next'", None),
    ("search", "/shop", "history.pushState(null, '', '?q=1')", "/shop"),
    ("search", "/shop?q=1", "history.pushState(null, '', '?q=1#part')", None),
    ("search", "/shop", "history.pushState(null, '', '/next')", "/next"),
    ("hash", "/shop", "location.hash = '#/next'", "/shop#/next"),
    ("hash", "/shop", "history.pushState(null, '', '#!/next')", "/shop#!/next"),
    ("hash", "/shop#/next", "location.hash = '#/next?q=1'", None),
    ("hash", "/shop", "location.hash = '#part'", None),
    ("hash", "/shop", "history.pushState(null, '', '/next')", "/next"),
    ("off", "/", "history.pushState(null, '', '/next')", None),
]


@pytest.mark.parametrize(("spa", "opened", "act", "path"), ROUTES, ids=[f"{s} {a}" for s, _, a, _ in ROUTES])
def test_what_makes_a_new_page(visit: Visit, spa: str, opened: str, act: str, path: str | None) -> None:
    """To see that nothing comes, a pageview is asked for after it."""
    visit.page("", opened.partition("?")[0].partition("#")[0], attributes={"spa": spa}, clock=True)
    visit.go(opened)
    visit.advance(1)
    visit.wait("pageview")
    visit.browser.run(act)
    visit.advance(1)
    visit.browser.run("window.collector.trackPageview({page_title: 'Asked for'})")
    visit.wait_for(lambda events: "Asked for" == events[-1].get("page_title"), "the last pageview")
    assert ([] if path is None else [path]) == paths(visit)[1:-1]


def test_back_and_forward_are_new_pages(visit: Visit) -> None:
    start(visit, path="/shop")
    push(visit, "/next")
    visit.wait("pageview", 2)
    # The button of WebKitGTK skips what the page added without a click.
    visit.browser.run("history.back()")
    visit.wait("pageview", 3)
    visit.browser.run("history.forward()")
    visit.wait("pageview", 4)
    assert ["/shop", "/next", "/shop", "/next"] == paths(visit)
    assert ["/shop", "/next", "/shop"] == paths(visit, "exit")


def test_history_keeps_its_meaning(visit: Visit) -> None:
    """The app's calls do what they did, return what they returned, and throw what they threw."""
    start(visit)
    assert [None, 7, "/next", True] == visit.browser.run(
        "const returned = history.pushState({n: 7}, '', '/next');"
        "let threw = false; try { history.pushState(null, '', 'http://other.example/'); } catch { threw = true; }"
        "return [returned ?? null, history.state.n, location.pathname, threw]"
    )
    assert "/next" == visit.last("pageview", 2)["page_path"]


def test_redirect_counts_once(visit: Visit) -> None:
    """A route that is replaced at once, as a login does, was no page. Nor has it an exit."""
    start(visit)
    visit.browser.run("history.pushState(null, '', '/login'); history.replaceState(null, '', '/account')")
    visit.wait("pageview", 2)
    push(visit, "/next")
    visit.wait("pageview", 3)
    assert ["/", "/account", "/next"] == paths(visit)
    assert ["/", "/account"] == paths(visit, "exit")
    assert visit.origin() + "/" == visit.events("pageview")[1]["page_referrer"]


def test_landing_page_that_redirects_at_once_counts_once(visit: Visit) -> None:
    visit.page("<a id=next href='/next'>Next</a>", "/from", tracker=False)
    visit.page("", "/next", before="addEventListener('load', () => history.replaceState(null, '', '/account'))")
    visit.go("/from")
    visit.browser.click("#next")
    visit.wait("pageview")
    push(visit, "/last")
    visit.wait("pageview", 2)
    assert ["/account", "/last"] == paths(visit)
    assert visit.origin() + "/from" == visit.first("pageview")["page_referrer"]


# What a new page has


def test_title_and_referrer_are_those_of_the_new_route(visit: Visit) -> None:
    start(visit, title="Shop", query="?utm_source=news&q=secret")
    push(visit, "/shoes", "Shoes")
    sent = visit.last("pageview", 2)
    assert ("Shoes", "/shoes") == (sent["page_title"], sent["page_path"])
    assert visit.origin() == sent["page_referrer"].partition("?")[0].rstrip("/")
    assert b"secret" not in b"".join(each.body for each in visit.requests())
    assert ("internal", False) == (sent["traffic_source"], sent["is_entry"])


def test_campaign_stays_with_later_routes(visit: Visit) -> None:
    start(visit, query="?utm_source=news&utm_medium=cpc")
    push(visit, "/shoes")
    visit.wait("pageview", 2)
    assert [("news", "paid"), ("news", "internal")] == [
        (event["utm_source"], event["traffic_source"]) for event in visit.events("pageview")
    ]


# What belongs to the old one


def test_leaving_events_belong_to_the_old_route(visit: Visit) -> None:
    start(visit, FORM, "/order", clock=True)
    visit.browser.click("#name")
    visit.browser.press("a")
    visit.advance(5)
    push(visit, "/next")
    visit.advance(1)
    visit.wait("pageview", 2)
    assert ["/order"] * 3 == [event["page_path"] for event in visit.events("form_abandon", "time_on_page", "exit")]
    after = visit.types().index("exit")
    assert ["pageview"] == visit.types()[after + 1 :]
    assert "exit" not in visit.types()[:after]


def test_exit_of_a_route_and_that_of_the_page_are_two(visit: Visit) -> None:
    start(visit)
    push(visit, "/next")
    visit.wait("pageview", 2)
    visit.leave()
    visit.wait("exit", 2)
    visit.open(path="/other")
    visit.wait("pageview", 3)
    assert [("/", True), ("/next", True)] == [(event["page_path"], event["is_exit"]) for event in visit.events("exit")]


def test_click_that_changes_the_route_belongs_to_the_old_one(visit: Visit) -> None:
    start(visit, "<button id=next onclick=\"history.pushState(null, '', '/next')\">Next</button>", "/shop")
    visit.browser.click("#next")
    visit.wait("pageview", 2)
    assert "/shop" == visit.first("click")["page_path"]


# What does not carry over


def test_scrolling_starts_anew_with_a_route(visit: Visit) -> None:
    start(visit, LONG, "/shop")
    visit.browser.run("scrollTo(0, 9999)")
    visit.wait("scroll", 4)
    push(visit, "/next")
    assert (100, "jumping") == (visit.first("exit")["max_scroll_depth"], visit.first("exit")["scroll_behavior"])
    visit.wait("pageview", 2)
    visit.browser.run("scrollTo(0, 0)")
    visit.settle()
    visit.browser.run("scrollTo(0, 1000)")
    visit.wait("scroll", 5)
    visit.leave()
    assert 50 > visit.last("exit", 2)["max_scroll_depth"]
    assert ["/shop"] * 4 + ["/next"] == paths(visit, "scroll")
    assert [25, 50, 75, 100, 25] == [event["scroll_depth"] for event in visit.events("scroll")]


@pytest.mark.parametrize("act", ["scrollTo(0, 0); {}", "{}; scrollTo(0, 0)", "{}; setTimeout(scrollTo, 200, 0, 0)"])
def test_app_that_scrolls_a_new_route_to_its_top_is_no_behavior(visit: Visit, act: str) -> None:
    """Nor does it cross a mark. Most apps do it, some before they change the address, some after."""
    start(visit, LONG, "/shop")
    visit.browser.run("scrollTo(0, 9999)")
    visit.wait("scroll", 4)
    visit.browser.run(act.format("history.pushState(null, '', '/next')"))
    visit.wait("pageview", 2)
    visit.until("scrollY === 0")
    visit.settle()
    visit.leave()
    last = visit.last("exit", 2)
    assert ("/next", None) == (last["page_path"], last["scroll_behavior"])
    assert ["/shop"] * 4 == paths(visit, "scroll")


def test_times_start_anew_with_a_route(visit: Visit) -> None:
    start(visit, clock=True)
    visit.advance(10)
    push(visit, "/next")
    visit.advance(4)
    push(visit, "/last")
    visit.advance(1)
    visit.wait("pageview", 3)
    times = [(event["time_on_page"], event["engaged_time"]) for event in visit.events("exit")]
    assert [pytest.approx((10, 10), abs=2), pytest.approx((4, 4), abs=2)] == times


def test_heartbeat_starts_anew_with_a_route(visit: Visit) -> None:
    start(visit, clock=True)
    visit.advance(10)
    push(visit, "/next")
    visit.advance(13)
    assert [] == visit.events("heartbeat")
    visit.advance(3)
    assert "/next" == visit.first("heartbeat")["page_path"]


def test_vitals_are_credited_to_the_landing_page(visit: Visit) -> None:
    """Even if nothing but the last route is there when the page is left."""
    start(visit, path="/shop")
    push(visit, "/next")
    visit.wait("pageview", 2)
    visit.leave()
    visit.wait("exit", 2)
    assert ["/shop"] == paths(visit, "cwv")
