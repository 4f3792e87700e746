"""Automated browsers and crawlers: nothing is sent and nothing is stored, and the page does not notice."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.tracker.engines import Engine
from tests.tracker.visits import Visit

# The page plays a browser without a driver, with the user agent that its query says.
DISGUISE = """
Object.defineProperty(Navigator.prototype, "webdriver", {get: () => false});
const agent = new URLSearchParams(location.search).get("agent");
if (agent) Object.defineProperty(Navigator.prototype, "userAgent", {get: () => agent});
"""

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) {}/156.0.0.0 Safari/537.36"
CRAWLERS = [
    CHROME.format("HeadlessChrome"),
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; +http://www.google.com/bot.html) "
    "Chrome/156.0.0.0 Safari/537.36",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) "
    "Chrome/156.0.0.0 Safari/537.36",
    "Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)",
    "Mozilla/5.0 (compatible; Baiduspider-render/2.0; +http://www.baidu.com/search/spider.html)",
    "Mozilla/5.0 (compatible; Google-InspectionTool/1.0;)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.1.1 "
    "Safari/605.1.15 (Applebot/0.1; +http://www.apple.com/go/applebot)",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "Mozilla/5.0 (compatible; ClaudeBot/1.0; +claudebot@anthropic.com)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
    "Mozilla/5.0 (compatible; SemrushBot/7~bl; +http://www.semrush.com/bot.html)",
    "Mozilla/5.0 (Linux; Android 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Mobile Safari/537.36 (compatible; "
    "Bytespider; spider-feedback@bytedance.com)",
    CHROME.format("Chrome") + " Chrome-Lighthouse",
    "Mozilla/5.0 (compatible; Screaming Frog SEO Crawler)",
]
VISITORS = [
    CHROME.format("Chrome"),
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 "
    "Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 "
    "Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:153.0) Gecko/20100101 Firefox/153.0",
    # A maker of telephones.
    "Mozilla/5.0 (Linux; Android 13; CUBOT P80) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Mobile "
    "Safari/537.36",
]


def sends_and_stores_nothing(visit: Visit, agent: str = "") -> bool:
    """Whether a visit with a click, and until its end, leaves no trace."""
    before = len(visit.requests())
    visit.go(f"/?agent={quote(agent)}")
    stored = visit.browser.run_async(
        "const done = arguments[0]; document.querySelector('#buy').click();"
        "window.collector.trackEvent({type: 'custom'}); window.collector.trackPageview(); window.collector.enable();"
        "window.collector.consent(true); window.collector.q.push(['consent', true]);"
        "requestAnimationFrame(() => setTimeout(() =>"
        "done([document.cookie, localStorage.length, window.collector.isEnabled()]), 50))"
    )
    visit.leave()
    visit.answered()
    return len(visit.requests()) == before and ["", 0, False] == stored


def test_driven_browser_sends_and_stores_nothing(visit: Visit) -> None:
    """It says so by `navigator.webdriver`. A page that calls the tracker is answered, and nothing comes of it."""
    usual = f"Object.defineProperty(Navigator.prototype, 'userAgent', {{get: () => '{VISITORS[0]}'}});"
    visit.page("<button id=buy>Buy</button>", attributes={"automation": None}, before=usual)
    assert sends_and_stores_nothing(visit)
    visit.open(attributes={"automation": True}, before=usual)
    assert "pageview" == visit.wait_for(bool, "an event")[0]["event_type"]


def test_crawlers_send_and_store_nothing(visit: Visit) -> None:
    visit.page("<button id=buy>Buy</button>", attributes={"automation": None}, before=DISGUISE)
    assert [] == [agent for agent in CRAWLERS if not sends_and_stores_nothing(visit, agent)]


@pytest.mark.parametrize("agent", VISITORS, ids=["chrome", "safari", "iphone", "firefox", "cubot"])
def test_visitors_are_no_crawlers(visit: Visit, agent: str) -> None:
    visit.open(attributes={"automation": None}, before=DISGUISE, query=f"?agent={quote(agent)}")
    visit.first("pageview")


def test_browser_with_the_user_agent_of_a_crawler_sends_and_stores_nothing(
    engine: Engine, fresh_visit: Callable[..., Visit]
) -> None:
    """The browser itself has it, and is no driven one as far as the page can see."""
    agent = CRAWLERS[1]
    capabilities: dict[str, dict[str, Any]] = {
        "chromium": {"goog:chromeOptions": {"args": [f"--user-agent={agent}"]}},
        "firefox": {"moz:firefoxOptions": {"prefs": {"general.useragent.override": agent}}},
        "webkit": {"webkitgtk:browserOptions": {"args": [f"--user-agent={agent}"]}},
    }
    visit = fresh_visit(**capabilities[engine.name])
    visit.page("<button id=buy>Buy</button>", attributes={"automation": None}, before=DISGUISE)
    assert sends_and_stores_nothing(visit)
    visit.open(attributes={"automation": True}, before=DISGUISE)
    assert agent == visit.wait_for_request(bool, "an event")[0].headers["user-agent"]
