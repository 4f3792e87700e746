"""The page's policies and the script's tag: CSP, Trusted Types, SRI, and every way to load and to set the script."""

from html.parser import HTMLParser
from typing import Any

import pytest

from tests.cli.in_process import Capture, run
from tests.tracker.recorder import Received
from tests.tracker.visits import Visit

BUY = "<button id=buy>Buy</button>"
CUSTOM = "window.collector.trackEvent({type: arguments[0]})"
STRICT = "default-src 'none'; script-src COLLECTOR; connect-src COLLECTOR"
TRUSTED_TYPES = "require-trusted-types-for 'script'; trusted-types 'none'"


class Scripts(HTMLParser):
    """The tags of all script elements, as they are written."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.found.append(f"{self.get_starttag_text()}</script>")


def snippet(visit: Visit, capsys: Capture) -> tuple[str, str]:
    """What `collector tracker --snippet` prints: the plain form, and the pinned one. For tests, both take drivers."""
    config = visit.collector.folder / "collector.toml"
    capsys.readouterr()
    assert 0 == run("tracker", "--snippet", visit.site, "--url", visit.collector_origin, "--config", config)
    plain, pinned = Scripts(capsys.readouterr().out).found
    return plain.replace("<script", "<script data-automation"), pinned.replace("<script", "<script data-automation")


def first_request(visit: Visit) -> Received:
    return visit.wait_for_request(bool, "an event")[0]


def nothing_is_sent(visit: Visit) -> bool:
    """Whether the open page sends nothing until its end."""
    visit.settle()
    visit.leave()
    visit.answered()
    return not visit.requests()


@pytest.mark.parametrize("more", ["", TRUSTED_TYPES], ids=["csp", "trusted types"])
def test_strict_policy_is_not_violated(visit: Visit, more: str) -> None:
    """A violation is a problem, which the test looks for at its end."""
    visit.open(BUY, csp=f"{STRICT}; {more}").first("pageview")
    visit.browser.click("#buy")
    visit.wait("click")
    visit.leave()
    visit.wait("exit")


def test_policy_that_refuses_the_collector_breaks_nothing(visit: Visit) -> None:
    """The events are lost, without an uncaught error. The violation itself is the browser's to tell."""
    visit.open(BUY, csp="default-src 'none'; script-src COLLECTOR; connect-src 'none'")
    visit.browser.click("#buy")
    assert nothing_is_sent(visit)
    assert {"csp"} == {problem.kind for problem in visit.problems}
    visit.allow("problems")


@pytest.mark.parametrize("form", [0, 1], ids=["plain", "pinned"])
def test_printed_snippet_works(visit: Visit, form: int, capsys: Capture) -> None:
    """Under a strict policy, too. The pinned form has the right hash, or the browser would not run it."""
    visit.open(BUY, tracker=False, head=snippet(visit, capsys)[form], csp=f"{STRICT}; {TRUSTED_TYPES}")
    visit.browser.click("#buy")
    visit.wait("click")
    assert {f"/public/{visit.site}/e"} == {request.path for request in visit.requests()}


def test_script_that_differs_from_its_hash_does_not_run(visit: Visit, capsys: Capture) -> None:
    """The page goes on without it."""
    pinned = snippet(visit, capsys)[1]
    begin, hash_, end = pinned.partition("sha384-")
    wrong = begin + hash_ + ("A" if end[0] != "A" else "B") + end[1:]
    visit.open(BUY, tracker=False, head=wrong, before="addEventListener('click', () => { document.title = 'Bought'; })")
    visit.browser.click("#buy")
    assert ["Bought", False] == visit.browser.run("return [document.title, 'collector' in window]")
    assert nothing_is_sent(visit)


def test_script_that_is_twice_on_a_page_sends_once(visit: Visit, capsys: Capture) -> None:
    plain, pinned = snippet(visit, capsys)
    visit.open(BUY, tracker=False, head=plain + plain + pinned).first("pageview")
    visit.browser.click("#buy")
    visit.wait("click")
    visit.browser.run(CUSTOM, "last")
    visit.wait("click", 2)
    assert ["pageview", "click", "click"] == visit.types()


INSERT = """
const script = Object.assign(document.createElement("script"), {src: SOURCE, async: true});
script.dataset.automation = "";
document.head.append(script);
"""


def test_script_that_another_script_inserts_finds_its_site(visit: Visit) -> None:
    source = f'"{visit.collector_origin}/public/{visit.site}/t.js"'
    visit.open(BUY, tracker=INSERT.replace("SOURCE", source)).first("pageview")
    visit.browser.click("#buy")
    visit.wait("click")


def test_script_that_is_inserted_after_the_page_has_loaded_tells_its_pageview(visit: Visit) -> None:
    visit.open(BUY, tracker=False)
    visit.browser.run(INSERT.replace("SOURCE", f'"{visit.collector_origin}/public/{visit.site}/t.js"'))
    assert visit.first("pageview")["is_entry"] is True


def test_module_finds_its_site_by_data_site(visit: Visit) -> None:
    """A module has no `document.currentScript`."""
    attributes = f'data-automation data-site="{visit.site}"'
    tag = f'<script type="module" src="{visit.collector_origin}/t.js" {attributes}></script>'
    visit.open(BUY, tracker=False, head=tag).first("pageview")


def test_script_without_a_site_sends_nothing(visit: Visit) -> None:
    """It has no place to send to. The page gets a `window.collector` that does nothing."""
    tag = f'<script defer data-automation src="{visit.collector_origin}/t.js"></script>'
    visit.open(tracker=False, head=tag)
    visit.browser.run(CUSTOM, "x")
    visit.browser.run("window.collector.enable()")
    assert visit.browser.run("return window.collector.isEnabled()") is False
    assert nothing_is_sent(visit)
    assert "undefined" not in visit.servers.recorder.sites()


def test_data_site_takes_the_place_of_the_scripts_path(visit: Visit) -> None:
    tag = f'<script defer data-automation data-site="{visit.site}" src="{visit.collector_origin}/t.js"></script>'
    visit.open(tracker=False, head=tag)
    assert f"/public/{visit.site}/e" == first_request(visit).path


@pytest.mark.parametrize("end", ["", "/"])
def test_data_host_is_where_events_go(visit: Visit, end: str) -> None:
    visit.open(first_party=True, attributes={"host": visit.collector_origin + end})
    request = first_request(visit)
    assert visit.collector_origin.endswith(request.headers["host"])
    assert f"/public/{visit.site}/e" == request.path


def test_script_of_the_pages_own_origin_sends_to_it(visit: Visit) -> None:
    visit.open(first_party=True)
    assert visit.origin().endswith(first_request(visit).headers["host"])


def test_data_path_is_the_last_part_of_the_path(visit: Visit) -> None:
    """The contract's own path, for example."""
    visit.open(attributes={"path": "analytics/collect"})
    assert f"/public/{visit.site}/analytics/collect" == first_request(visit).path


def test_data_off_names_types_that_are_not_sent(visit: Visit) -> None:
    visit.open(BUY, attributes={"off": "pageview, dead_click,click"}, clock=True)
    visit.browser.click("#buy")
    visit.browser.run(CUSTOM, "custom")
    visit.advance(16)
    visit.wait("heartbeat")
    assert ["heartbeat"] == visit.types()


def test_data_on_names_types_that_are_off_by_default(visit: Visit) -> None:
    """A click on what does not act."""
    visit.page("<p id=text>Text", "/off")
    visit.go("/off")
    visit.browser.click("#text")
    visit.browser.run(CUSTOM, "after")
    visit.wait("click")
    assert [] == visit.events("heatmap_click")
    visit.open("<p id=text>Text", attributes={"on": "heatmap_click"})
    visit.browser.click("#text")
    assert "p" == visit.first("heatmap_click")["click_element_tag"]


# data-before-send

ASK = {"before-send": "onCollect"}


def test_before_send_may_change_an_event(visit: Visit) -> None:
    change = "window.onCollect = event => { event.page_title = 'Changed'; return {...event, page_path: '/changed'}; };"
    event = visit.open(attributes=ASK, before=change).first("pageview")
    assert ("Changed", "/changed") == (event["page_title"], event["page_path"])


def test_before_send_sees_the_event_as_it_is_sent(visit: Visit) -> None:
    keep = "window.seen = []; window.onCollect = event => { window.seen.push(JSON.stringify(event)); return event; };"
    event = visit.open(attributes=ASK, before=keep).first("pageview")
    assert [event] == visit.browser.run("return window.seen.map(each => JSON.parse(each))")


def test_before_send_may_drop_an_event(visit: Visit) -> None:
    drop = "window.onCollect = event => event.event_type === 'pageview' ? null : event;"
    visit.open(attributes=ASK, before=drop)
    visit.browser.run(CUSTOM, "kept")
    visit.wait("click")
    assert ["click"] == visit.types()


@pytest.mark.parametrize(
    "script",
    [
        "window.onCollect = () => { throw new Error('broken'); };",
        "window.onCollect = () => {};",
        "window.onCollect = () => false;",
        "window.onCollect = 'no function';",
        "",
    ],
    ids=["throws", "returns nothing", "returns false", "no function", "missing"],
)
def test_broken_before_send_lets_nothing_out(visit: Visit, script: str) -> None:
    """It may be there to hide something. There is no uncaught error."""
    visit.open(BUY, attributes=ASK, before=script)
    visit.browser.click("#buy")
    assert nothing_is_sent(visit)


def test_other_attributes_do_no_harm(visit: Visit) -> None:
    """Typing errors and what other tools put on scripts."""
    odd: dict[str, Any] = {"consent": "", "spa": "everything", "on": ",,", "off": " ", "cf-beacon": "{}", "auto": "yes"}
    visit.open(BUY, attributes=odd).first("pageview")
    visit.browser.click("#buy")
    visit.wait("click")
