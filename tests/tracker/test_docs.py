"""The examples of docs/tracker.md, run as they stand. Only the address of the collector, and the site, are replaced."""

import re
from pathlib import Path

from collector.edge.script import current, pinned_name
from tests.tracker.visits import Visit

PAGE = (Path(__file__).parents[2] / "docs" / "tracker.md").read_text()
HTML = re.findall(r"^```html\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
CONSENT = "document.dispatchEvent(new CustomEvent('consent-changed', {detail: {analytics: %s}}))"


def example(visit: Visit, mark: str) -> str:
    """The only block of HTML that has the mark, for this visit's collector and site."""
    (found,) = [block for block in HTML if mark in block]
    return for_visit(visit, found)


def for_visit(visit: Visit, text: str) -> str:
    """Drivers automate the browser, so the script has to be told to track it."""
    text = text.replace("https://collect.example.com/public/example/", f"{visit.collector_origin}/public/{visit.site}/")
    text = text.replace("https://collect.example.com", visit.collector_origin)
    return text.replace("<script defer ", "<script defer data-automation ")


def snippet(visit: Visit) -> str:
    return for_visit(visit, HTML[0])


def test_one_line_of_html_is_enough(visit: Visit) -> None:
    assert 1 == HTML[0].count("\n")
    visit.open("<p>Prices", title="Prices", tracker=False, head=snippet(visit))
    assert "Prices" == visit.first("pageview")["page_title"]


def test_queue_takes_calls_before_the_script_and_after(visit: Visit) -> None:
    call = example(visit, '"trackEvent"')
    visit.open("<p>Prices", tracker=False, head=call + snippet(visit))
    visit.wait("click")
    (code,) = re.findall(r"<script>(.*?)</script>", call, re.DOTALL)
    visit.browser.run(code)
    visit.wait("click", 2)
    assert 2 * [("custom", "signup", "Newsletter")] == [
        (event["click_element_tag"], event["click_element_id"], event["click_element_text"])
        for event in visit.events("click")
    ]


def test_function_before_sending_drops_accounts(visit: Visit) -> None:
    head = example(visit, "withoutAccounts")
    visit.page("<p>Account", "/account/7", tracker=False, head=head)
    visit.go("/account/7")
    visit.until("window.collector && collector.isEnabled")
    visit.browser.run("collector.trackEvent({type: 'signup'})")
    visit.settle()
    visit.open("<p>Prices", "/prices", tracker=False, head=head)
    visit.wait("pageview")
    assert {"/prices"} == {event["page_path"] for event in visit.events()}


def test_consent_manager_starts_and_stops_the_tracker(visit: Visit) -> None:
    visit.open("<p>Prices", tracker=False, head=example(visit, "consent-changed"))
    visit.until("window.collector && collector.isEnabled")
    visit.browser.run("collector.trackEvent({type: 'before'})")
    visit.settle()
    assert ([], {}) == (visit.requests(), visit.browser.cookies())
    visit.browser.run(CONSENT % "true")
    visit.wait("pageview")
    assert {"_cvid", "_csid"} == set(visit.browser.cookies())
    visit.browser.run(CONSENT % "false")
    assert (False, {}) == (visit.browser.run("return collector.isEnabled()"), visit.browser.cookies())
    assert "before" not in [event.get("click_element_id") for event in visit.events()]


def test_button_to_opt_out_deletes_the_cookies(visit: Visit) -> None:
    (button,) = re.findall(r"`(<button .*?</button>)`", PAGE)
    visit.open(button, tracker=False, head=snippet(visit))
    visit.wait("pageview")
    assert {"_cvid", "_csid"} == set(visit.browser.cookies())
    visit.browser.click("button")
    visit.until("document.cookie === ''")
    visit.go("/")
    assert "fingerprint" == visit.wait("pageview", 2)[-1]["visitor_id_source"]
    assert {} == visit.browser.cookies()


def test_policy_has_every_entry_that_the_tracker_needs(visit: Visit) -> None:
    """All else is forbidden, Trusted Types included. The visit fails at its end if the page violates its policy."""
    (policy,) = re.findall(r"^```\n(script-src .*)\n```", PAGE, re.MULTILINE)
    policy = f"default-src 'none'; {for_visit(visit, policy)}; require-trusted-types-for 'script'; trusted-types 'none'"
    visit.open("<button>Buy</button>", tracker=False, head=snippet(visit), csp=policy)
    visit.wait("pageview")
    visit.browser.click("button")
    visit.wait("click")


def test_pinned_script_is_checked_and_runs(visit: Visit) -> None:
    """With another hash it does not run."""
    tag = example(visit, "integrity=").replace("t-<hash>.js", pinned_name("t.js", current()))
    tag = tag.replace("/public/example/", f"/public/{visit.site}/").replace('"example"', f'"{visit.site}"')
    right = tag.replace("sha384-<hash>", current().integrity)
    wrong = tag.replace("sha384-<hash>", "sha384-" + "A" * 64)
    visit.open("<p>Wrong", "/wrong", tracker=False, head=wrong)
    assert visit.browser.run("return window.collector === undefined")
    visit.open("<p>Right", "/right", tracker=False, head=right)
    visit.wait("pageview")
    assert {"/right"} == {event["page_path"] for event in visit.events()}


def test_methods_of_the_page_are_those_of_the_script(visit: Visit) -> None:
    section = PAGE.split("\n## Call it from a page\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`(\w+)\(", cell)}
    visit.open(tracker=False, head=snippet(visit))
    visit.wait("pageview")
    found = visit.browser.run("return Object.keys(collector).filter(name => typeof collector[name] === 'function')")
    assert sorted(found) == sorted(documented)
