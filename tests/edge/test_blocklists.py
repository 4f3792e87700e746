"""Blockers: the default paths of the tracker are in no rule of EasyPrivacy's general list, unlike the contract's."""

import re

import pytest

from collector.config import Tracker
from collector.edge.script import current, pinned_name

# Rules of EasyPrivacy's general list (easylist, commit 000296b) that come near our paths, or near others that one may
# think of. The first two block the contract's own path on every host.
RULES = [
    "/analytics/collect|",
    "/analytics/collect?",
    "://analytics.*/collect",
    "://track.*/collect",
    "://stats.*/script.js",
    "://collector.*/event",
    "/stats.*/event",
    "/tracker.*/visit?",
    "/beacon.js",
    "/collector/pageview",
    "/report?event_",
    "/stat.js?",
    "/t.gif?",
    "/t/event.js?",
    "/t/event?",
    "/t?referer=",
    "/t?tcid=",
    "/track.js?pixelId=",
    "/track/batch?",
    "/tracker.min.js",
    "/tracker/event?",
    "/tracker/tracker-",
    "/tracker/tracker.js",
    "/v1/tracker.js",
    "/web-vitals.",
    "/umami.js",
    "/track.gif^",
    "/track/view|",
]


def blocks(rule: str, url: str) -> bool:
    """Whether a rule blocks a URL, by the syntax of Adblock Plus, without options. Case does not count."""
    body = rule.partition("$")[0]
    begin, body = next((start, body[len(mark) :]) for mark, start in _STARTS if body.startswith(mark))
    end, body = (r"\Z", body[:-1]) if body.endswith("|") else ("", body)
    middle = "".join(_SPECIAL.get(char) or re.escape(char) for char in body)
    return re.search(begin + middle + end, url, re.IGNORECASE) is not None


_STARTS = (("||", r"\A[a-z-]+://(?:[^/?#]*\.)?"), ("|", r"\A"), ("", ""))
_SPECIAL = {"*": ".*", "^": r"(?:[^A-Za-z0-9_.%-]|\Z)"}


@pytest.mark.parametrize(
    ("rule", "blocked", "passed"),
    [
        ("/a/b|", "https://x.example/a/b", "https://x.example/a/b/c"),
        ("/a/b?", "https://x.example/a/b?c", "https://x.example/a/b"),
        ("://a.*/b", "https://a.x.example/c/b.js", "https://x.a.example/b"),
        ("/A.gif^", "https://x.example/a.GIF?b", "https://x.example/a.gif2"),
        ("/a^", "https://x.example/a", "https://x.example/a_b"),
        ("||a.example^", "https://x.a.example/b", "https://xa.example/b"),
        ("||a.example^", "https://a.example", "https://b.example/a.example/"),
        ("|https://a", "https://a.example/", "https://b.example/?https://a"),
        ("/a.js$third-party", "https://x.example/a.js", "https://x.example/axjs"),
    ],
)
def test_matcher_reads_the_syntax_of_the_rules(rule: str, blocked: str, passed: str) -> None:
    assert (True, False) == (blocks(rule, blocked), blocks(rule, passed))


@pytest.mark.parametrize("host", ["https://collect.example.com", "https://www.shop.example", "https://shop.example/s"])
@pytest.mark.parametrize("site", ["shop", "demo-1", "EXAMPLE_com"])
def test_default_paths_are_not_blocked(host: str, site: str) -> None:
    """First party or third party, the path decides in these rules."""
    tracker = Tracker()
    for path in (
        f"/public/{site}/{tracker.script_path}",
        f"/{tracker.script_path}",
        f"/{pinned_name(tracker.script_path, current())}",
        f"/public/{site}/{pinned_name(tracker.script_path, current())}",
        f"/public/{site}/{tracker.collect_path}",
    ):
        assert [] == [rule for rule in RULES if blocks(rule, host + path)]


@pytest.mark.parametrize("host", ["https://collect.example.com", "https://www.shop.example"])
@pytest.mark.parametrize("query", ["", "?t=1"])
def test_path_of_the_contract_is_blocked(host: str, query: str) -> None:
    """This is why there is a short path. If it fails, the matcher or the rules are wrong."""
    assert [rule for rule in RULES if blocks(rule, f"{host}/public/x/analytics/collect{query}")]
