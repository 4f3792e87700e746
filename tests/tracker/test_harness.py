"""The harness itself, with a tracker of a few lines: what tests rely on is true in every engine."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.tracker.conftest import Shared, StartBrowser
from tests.tracker.engines import ENGINES, Engine
from tests.tracker.recorder import differences
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Key

# Sends a pageview at once, a click for each click, and an exit when the page is left.
TRACKER = """
const site = location.hostname.split(".").at(-2);
const url = document.currentScript.dataset.url || COLLECTOR + "/public/" + site + "/e";
const event = (event_type, more) => JSON.stringify({
  session_id: "s-1", visitor_id: "visitor-1", event_type, page_path: location.pathname, page_title: document.title,
  event_time: new Date().toISOString(), viewport_width: innerWidth, ...more});
const send = (...of) => fetch(url, {method: "POST", body: event(...of), keepalive: true}).catch(() => {});
send("pageview");
for (const kind of ["click", "auxclick"])
  addEventListener(kind, e => send("click", {click_element_id: e.target.id, click_count: e.detail, click_x: e.pageX}));
addEventListener("scroll", () => send("scroll", {scroll_depth: 10}), {once: true});
addEventListener("pagehide", e => navigator.sendBeacon(url, event("exit", {is_exit: !e.persisted})));
addEventListener("pageshow", e => { if (e.persisted) send("pageview", {page_title: "back"}); });
document.addEventListener("visibilitychange", () => send("heartbeat", {visible: !document.hidden}));
"""


def tracker(visit: Visit) -> str:
    return TRACKER.replace("COLLECTOR", f'"{visit.collector_origin}"')


def start(visit: Visit, body: str = "<button id=buy>Buy</button>", **page: Any) -> None:
    visit.open(body, tracker=tracker(visit), title="Prices", **page)
    visit.wait("pageview")


def test_events_go_from_page_to_parquet(visit: Visit) -> None:
    start(visit)
    visit.browser.click("#buy")
    visit.wait("click")
    visit.leave()
    visit.wait("exit")
    visit.wait("heartbeat")
    assert ["pageview", "click", "exit"] == [each for each in visit.types() if each != "heartbeat"]
    assert "Prices" == visit.first("pageview")["page_title"]
    assert visit.origin() == visit.requests()[0].headers["origin"]
    assert [] == differences(visit.events(), visit.rows())
    assert "buy" in [row["click_element_id"] for row in visit.rows()]


def test_the_tracker_itself_goes_from_page_to_parquet(visit: Visit) -> None:
    visit.open("<button id=buy>Buy</button>", title="Prices", query="?utm_source=news")
    assert ("Prices", "news") == (visit.first("pageview")["page_title"], visit.first("pageview")["utm_source"])
    visit.browser.click("#buy")
    assert "buy" == visit.first("click")["click_element_id"]
    visit.leave()
    visit.wait("exit")


def test_localhost_names_are_a_secure_context(visit: Visit) -> None:
    start(visit)
    assert [True, True, "visible"] == visit.browser.run(
        "return [isSecureContext, document.hasFocus(), document.visibilityState]"
    )


def test_each_visit_starts_without_state(visit: Visit) -> None:
    """Run twice (below): what the first one leaves, the second must not find."""
    start(visit)
    found = visit.browser.run(
        "const found = [document.cookie, localStorage.length]; localStorage.setItem('kept', 1);"
        "document.cookie = 'host=1; max-age=999'; document.cookie = `site=1; max-age=999; domain=${location.hostname}`;"
        "return found"
    )
    assert ["", 0] == found


test_each_visit_starts_without_state_again = test_each_visit_starts_without_state


def test_cookie_of_the_site_is_shared_with_www_and_none_reaches_other_sites(visit: Visit) -> None:
    """As on a real domain: the site's name is the registrable domain, and `localhost` a public suffix."""
    start(visit)
    visit.browser.run(
        "const host = location.hostname, top = host.split('.').at(-1);"
        "document.cookie = `wide=1; domain=${host}`; document.cookie = `wider=1; domain=${top}`;"
    )
    assert {"wide"} == set(visit.browser.cookies())
    visit.go("/", host="www")
    assert {"wide"} == set(visit.browser.cookies())


def test_pointer_and_keys_are_real_input(visit: Visit) -> None:
    start(visit, "<input id=name><a id=next href='#part'>Next</a><div style='height: 3000px'></div>")
    browser = visit.browser
    browser.run(
        "window.log = []; for (const kind of ['click', 'keydown', 'input', 'wheel', 'focusin'])"
        "addEventListener(kind, e => window.log.push(`${kind} ${e.isTrusted}`), true);"
    )
    browser.click("#name")
    browser.press("ab", Key.TAB)
    assert ["next", "ab"] == browser.run("return [document.activeElement.id, document.querySelector('#name').value]")
    browser.press(Key.ENTER)
    visit.until("location.hash === '#part'")
    browser.wheel(300)
    visit.wait("scroll")
    assert {f"{kind} true" for kind in ("click", "keydown", "input", "wheel", "focusin")} == set(
        browser.run("return window.log")
    )


def test_triple_click_counts_to_three(visit: Visit) -> None:
    start(visit)
    visit.browser.click("#buy", times=3, pause_ms=50)
    assert [1, 2, 3] == [event["click_count"] for event in visit.wait("click", 3)]


def test_middle_and_modified_click_open_a_tab(visit: Visit) -> None:
    """The page stays in front."""
    visit.needs("buttons")
    start(visit, "<a id=next href='/next'>Next</a>")
    visit.browser.click("#next", button=1)
    visit.browser.click("#next", keys=Key.CONTROL)
    visit.wait("click", 2)
    assert visit.origin() + "/" == visit.browser.url
    visit.wait_for_windows(2)
    assert "visible" == visit.browser.run("return document.visibilityState")


def test_link_with_a_target_opens_a_window(visit: Visit) -> None:
    visit.page("<p>Next", "/next", tracker=tracker(visit))
    start(visit, "<a id=next href='/next' target=_blank>Next</a>")
    visit.browser.click("#next")
    [new] = visit.wait_for_windows(1)
    assert {"/", "/next"} == {event["page_path"] for event in visit.wait("pageview", 2)}
    visit.browser.switch(new)
    assert visit.origin() + "/next" == visit.browser.url


def test_click_with_a_key_held_has_its_modifier(visit: Visit) -> None:
    start(visit)
    visit.browser.run("window.held = []; addEventListener('click', e => window.held.push([e.ctrlKey, e.shiftKey]))")
    visit.browser.click("#buy", keys=Key.CONTROL + Key.SHIFT)
    visit.browser.click("#buy")
    assert [[True, True], [False, False]] == visit.browser.run("return window.held")


def test_hidden_page_becomes_visible_again(visit: Visit) -> None:
    start(visit)
    with visit.hidden():
        visit.wait("heartbeat")
    assert [False, True] == [event["visible"] for event in visit.wait("heartbeat", 2)]


def test_back_restores_the_page_from_the_bfcache(visit: Visit) -> None:
    start(visit)
    visit.leave()
    visit.wait("exit")
    visit.browser.back()
    assert ["Prices", "back"] == [event["page_title"] for event in visit.wait("pageview", 2)]
    assert visit.first("exit")["is_exit"] is False


def test_beacon_of_a_closed_tab_arrives(visit: Visit) -> None:
    visit.needs("close")
    start(visit)
    with visit.browser.other_window():
        visit.go("/")
        visit.wait("pageview", 2)
    visit.wait("exit")


def test_download_leaves_the_page_where_it_is(visit: Visit) -> None:
    visit.download("/prices.bin")
    start(visit, "<a id=file href='/prices.bin'>Prices</a>")
    visit.browser.click("#file")
    visit.wait("click")
    assert visit.origin() + "/" == visit.browser.url


def test_dialog_is_read_and_accepted(visit: Visit) -> None:
    start(visit)
    visit.browser.run("setTimeout(() => alert('Sold out'), 0)")
    assert "Sold out" == visit.browser.accept_alert()


def test_first_party_page_sends_to_its_own_origin(visit: Visit) -> None:
    visit.open(tracker=tracker(visit).replace(visit.collector_origin, visit.origin()))
    assert "same-origin" == visit.wait_for_request(lambda all_: len(all_) >= 1, "one")[0].headers["sec-fetch-site"]


def test_fault_is_what_the_page_sees_and_is_mended(visit: Visit) -> None:
    start(visit)
    send = (
        "const done = arguments[1]; fetch(arguments[0], {method: 'POST', body: '{}'})"
        ".then(r => done([r.status, r.headers.get('Retry-After')]), () => done('network error'));"
    )
    url = f"{visit.collector_origin}/public/{visit.site}/e"
    visit.fail("status", status=503, headers={"Retry-After": "7"}, times=1)
    assert [503, "7"] == visit.browser.run_async(send, url)
    visit.fail("broken")
    assert "network error" == visit.browser.run_async(send, url)
    visit.mend()
    assert [422, None] == visit.browser.run_async(send, url)
    assert [503, None, 422] == [each.status for each in visit.requests()[1:]]
    assert ["invalid"] == [each.reason for each in visit.refused]
    visit.allow("refused")


def test_offline_page_cannot_send(visit: Visit) -> None:
    start(visit)
    visit.browser.run(
        "window.seen = []; for (const k of ['offline', 'online']) addEventListener(k, () => window.seen.push(k))"
    )
    with visit.offline():
        visit.until("!navigator.onLine")
        url = f"{visit.collector_origin}/public/{visit.site}/e"
        send = "const done = arguments[1]; fetch(arguments[0], {method: 'POST'}).then(() => done(1), () => done(0))"
        assert 0 == visit.browser.run_async(send, url)
    visit.until("window.seen.length === 2")
    assert ["offline", "online"] == visit.browser.run("return window.seen")
    assert [201] == [each.status for each in visit.requests() if not each.faulty]


@pytest.mark.parametrize(
    ("kind", "script", "text"),
    [
        ("error", "setTimeout(() => { throw new TypeError('broken') }, 0)", "broken"),
        ("rejection", "Promise.reject(new TypeError('broken promise'))", "broken promise"),
        ("csp", "fetch('http://other.localhost:9/x', {method: 'POST'}).catch(() => {})", "connect-src"),
    ],
    ids=["error", "rejection", "csp"],
)
def test_problem_on_a_page_fails_the_test(visit: Visit, kind: str, script: str, text: str) -> None:
    visit.open(tracker=script, csp="default-src 'none'; script-src COLLECTOR; connect-src COLLECTOR")
    visit.wait_for_problem()
    assert [kind] == [problem.kind for problem in visit.problems]
    assert text in visit.problems[0].text
    with pytest.raises(AssertionError, match=text):
        visit.check()
    visit.allow("problems")


def test_page_with_a_strict_policy_is_driven_and_watched(visit: Visit) -> None:
    """The policy that a careful site has. Neither the driver nor the harness violates it."""
    policy = "default-src 'none'; script-src COLLECTOR; connect-src COLLECTOR; require-trusted-types-for 'script'"
    start(visit, csp=f"{policy}; trusted-types 'none'")
    visit.browser.click("#buy")
    visit.wait("click")
    visit.settle()
    assert "Prices" == visit.browser.run("return document.title")


def test_page_in_a_sandboxed_frame_is_driven_and_watched(visit: Visit) -> None:
    visit.page("<button id=inner>Inner</button>", "/inner", tracker="localStorage.getItem('x')")
    visit.open("<iframe id=frame sandbox='allow-scripts' src='/inner'></iframe>", tracker=False)
    assert "error" == visit.wait_for_problem().kind
    with visit.browser.frame("#frame"):
        assert "null" == visit.browser.run("return window.origin")
    visit.allow("problems")


def test_redirects_delays_and_other_files_are_served(visit: Visit) -> None:
    visit.serve("/old", status=302, headers={"Location": "/new?from=old"})
    visit.serve("/data.json", '{"price": 7}', content_type="application/json", delay_s=0.05)
    visit.page("<p>New", "/new", tracker=tracker(visit))
    visit.go("/old")
    assert "/new" == visit.first("pageview")["page_path"]
    assert 7 == visit.browser.run("return fetch('/data.json').then(r => r.json()).then(d => d.price)")


def test_preflight_and_refusal_fail_the_test(visit: Visit) -> None:
    start(visit)
    url = f"{visit.collector_origin}/public/{visit.site}/e"
    visit.browser.run_async(
        "const done = arguments[1], headers = {'Content-Type': 'application/json'};"
        "fetch(arguments[0], {method: 'POST', body: '{}', headers}).then(done, done)",
        url,
    )
    assert (1, 1) == (len(visit.preflights), len(visit.refused))
    with pytest.raises(AssertionError, match="preflights"):
        visit.check()
    visit.allow("preflights", "refused")


def test_fresh_browser_takes_capabilities(engine: Engine, fresh_visit: Callable[..., Visit]) -> None:
    agent = "Harness/1.0"
    capabilities: dict[str, dict[str, Any]] = {
        "chromium": {"goog:chromeOptions": {"args": [f"--user-agent={agent}"]}},
        "firefox": {"moz:firefoxOptions": {"prefs": {"general.useragent.override": agent}}},
        "webkit": {"webkitgtk:browserOptions": {"args": [f"--user-agent={agent}"]}},
    }
    visit = fresh_visit(**capabilities[engine.name])
    start(visit)
    assert agent == visit.requests()[0].headers["user-agent"]


def test_crashed_browser_is_replaced_for_the_next_test(engine: Engine, start_browser: StartBrowser) -> None:
    shared = Shared(start_browser)
    browser, _ = shared.browser()
    assert browser is shared.browser()[0]
    browser.quit()
    assert shared.browser()[0].session_id != browser.session_id
    shared.end()


def test_clock_runs_timeouts_in_their_order_and_at_their_time(visit: Visit) -> None:
    """As on the real clock: a timeout may set another, and one that was cleared does not run."""
    script = """
    const begin = Date.now(), begun = performance.now();
    window.ran = [];
    const seconds = ms => Math.round(ms / 1000);
    const note = name => window.ran.push([name, seconds(Date.now() - begin), seconds(performance.now() - begun)]);
    setTimeout(() => { note("late"); setTimeout(note, 20000, "nested"); }, 30000);
    setTimeout(note, 15000, "early");
    const id = setTimeout(note, 20000, "cleared");
    clearTimeout(id);
    setTimeout(note, 3600000, "beyond");
    """
    visit.open(tracker=script, clock=True)
    visit.advance(20)
    visit.advance(40)
    assert [["early", 15, 15], ["late", 30, 30], ["nested", 50, 50]] == visit.browser.run("return window.ran")
    assert 60 == visit.browser.run("return Math.round((new window.Date() - performance.timeOrigin) / 1000)")
    with visit.hidden():
        visit.advance(3600)
    assert "beyond" == visit.browser.run("return window.ran.at(-1)[0]")


EVENT = {"event_type": "click", "event_time": "2026-05-12T10:00:00.250Z", "click_x": 7, "is_exit": None}
ROW: dict[str, Any] = {
    "event_type": "click",
    "event_time": datetime(2026, 5, 12, 10, 0, 0, 250_000, UTC),
    "click_x": 7.0,
}
MORE = {"is_exit": None, "site_id": "s000", "user_agent": "x", "event_time_raw": None}


@pytest.mark.parametrize(
    ("events", "rows", "count"),
    [
        ([EVENT, EVENT], [ROW | MORE, ROW], 0),
        ([EVENT, EVENT], [ROW], 1),
        ([EVENT], [ROW, ROW], 1),
        ([EVENT], [ROW | {"click_x": 8.0}], 2),
        ([EVENT], [ROW | {"event_time": ROW["event_time"] + timedelta(milliseconds=1)}], 2),
        ([EVENT], [ROW | {"page_title": "from nowhere"}], 2),
        ([EVENT], [ROW | {"event_time_raw": "yesterday"}], 2),
    ],
    ids=["equal", "missing", "doubled", "other number", "other time", "extra field", "odd time"],
)
def test_row_that_differs_from_its_event_is_told(events: list[Any], rows: list[Any], count: int) -> None:
    assert count == len(differences(events, rows))


@pytest.mark.parametrize("name", ENGINES)
def test_without_a_browser_ci_fails_and_others_skip(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"no {name}"):
        ENGINES[name].require()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match=f"no {name}"):
        ENGINES[name].require()
