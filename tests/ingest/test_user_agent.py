"""User agents: what is stored of them, and which are known bots."""

import re

import pytest
from crawleruseragents import CRAWLER_USER_AGENTS_DATA
from hypothesis import given
from hypothesis import strategies as st

from collector.ingest import user_agent
from collector.ingest.bots import LONGEST_NAME, _list, _name, bot_name
from collector.ingest.user_agent import USER_AGENT_MAX_CHARACTERS, known_user_agent

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
EXAMPLES = sorted({example for entry in CRAWLER_USER_AGENTS_DATA for example in entry["instances"]})


@pytest.mark.parametrize(
    ("header", "bot"),
    [
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Googlebot"),
        ("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", "bingbot"),
        ("curl/8.5.0", "curl"),
        ("Wget/1.21", "wget"),
        ("python-requests/2.32", "python-requests"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/140.0.0.0 Safari/537.36", "HeadlessChrome"),
        (FIREFOX, None),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0", None),
        ("not curl/8", None),  # the list's pattern is for the beginning
        ("", None),
        (None, None),
    ],
)
def test_bot_has_its_name(header: str | None, bot: str | None) -> None:
    for _ in range(2):  # the second time from memory
        assert (header, bot) == (known_user_agent(header).text, known_user_agent(header).bot)


def test_every_example_of_the_list_is_found_as_the_list_means_it() -> None:
    """RE2 finds the same entries as Python's own regular expressions, of which the list speaks."""
    patterns = [re.compile(entry["pattern"]) for entry in CRAWLER_USER_AGENTS_DATA]
    for example in EXAMPLES[::7]:
        expected = [index for index, pattern in enumerate(patterns) if pattern.search(example)]
        assert expected == sorted(_list().matcher.Match(example)), example
    assert all(bot_name(example) for example in EXAMPLES)


def test_first_entry_of_the_list_that_matches_gives_the_name() -> None:
    """Many examples match a later entry too, which is often more general."""
    several = [found for found in map(_list().matcher.Match, EXAMPLES) if len(found) > 1]
    assert several
    for example in EXAMPLES:
        assert _name(min(_list().matcher.Match(example))) == bot_name(example), example


def test_every_pattern_of_the_list_is_searched_for() -> None:
    assert CRAWLER_USER_AGENTS_DATA == _list().entries


def test_pattern_that_re2_cannot_read_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The others keep their names."""
    patterns = ("Googlebot", "(?=lookahead)", "bingbot")
    entries = [{"pattern": pattern, "instances": [pattern]} for pattern in patterns]
    monkeypatch.setattr("crawleruseragents.CRAWLER_USER_AGENTS_DATA", entries)
    for cached in (_list, _name):
        cached.cache_clear()
    try:
        assert ["Googlebot", "bingbot", None] == [bot_name(text) for text in ("Googlebot/2", "bingbot/2", "lookahead")]
        assert "RE2 cannot read its pattern (?=lookahead)" in caplog.text
    finally:
        for cached in (_list, _name):
            cached.cache_clear()


def test_names_are_short_readable_and_tell_the_bots_apart() -> None:
    names = [_name(index) for index in range(len(CRAWLER_USER_AGENTS_DATA))]
    assert all(0 < len(name) <= LONGEST_NAME and name.isprintable() and name.strip() == name for name in names)
    assert len(set(names)) >= 0.99 * len(names)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("x" * 600, "x" * 512),
        ("€" * 600, "€" * 512),
        ("caf\udce9", "caf\ufffd"),
        ("caf\udcc3\udca9", "café"),  # UTF-8, as it arrives
    ],
)
def test_user_agent_is_cut_and_cleaned(header: str, text: str) -> None:
    found = known_user_agent(header)
    assert (text, len(text.encode())) == (found.text, found.size_bytes)


@given(st.text(max_size=40) | st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), max_size=600))
def test_any_header_gives_text_that_can_be_stored(header: str) -> None:
    header = header.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    found = known_user_agent(header)
    assert found.text is not None
    assert found.size_bytes >= len(found.text.encode())
    assert len(found.text) <= USER_AGENT_MAX_CHARACTERS


def test_only_usual_user_agents_are_remembered() -> None:
    """Long ones, and ones of which each character takes four bytes, would take much memory."""
    for header, kept in ((FIREFOX, True), ("x" * 512, True), ("x" * 513, False), ("café", False)):
        known_user_agent(header)
        assert kept is (header in user_agent._known)
