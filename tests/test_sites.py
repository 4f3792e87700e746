"""Sites: excluded paths, allowed origins, and the host of a URL."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector import sites
from collector.config import SiteSettings
from collector.sites import (
    LONGEST_KNOWN_URL,
    OriginSet,
    PathSet,
    build_site,
    build_sites,
    host_of,
    known_host,
    origin_of,
)


def origins(*listed: str) -> OriginSet:
    """The set that a configuration file with these origins gives."""
    known = build_site("demo", SiteSettings.model_validate({"allowed_origins": listed})).allowed_origins
    assert known is not None
    return known


@pytest.mark.parametrize(
    ("excluded", "pattern", "path"),
    [
        (True, "/admin", "/admin"),
        (False, "/admin", "/admin/"),
        (False, "/admin", "/Admin"),
        (False, "/admin", "/admin2"),
        (False, "/admin", "/x/admin"),
        (True, "/admin", "/admin?tab=1"),
        (True, "/admin", "/admin#top"),
        (True, "/admin", "/admin#top?not-a-query"),
        (False, "/admin", "/x?y=/admin"),
        (True, "/admin/*", "/admin/"),
        (True, "/admin/*", "/admin/users/7/edit"),
        (False, "/admin/*", "/admin"),
        (False, "/admin/*", "/ADMIN/users"),
        (False, "/admin/*", "/x#/admin/users"),
        (True, "*/edit", "/users/7/edit"),
        (True, "*/edit", "/users/7/edit?x=/view"),
        (False, "*/edit", "/users/7/edited"),
        (True, "/a*b*c", "/abc"),
        (True, "/a*b*c", "/a/b/b/c"),
        (False, "/a*b*c", "/acb"),
        (False, "/a*a", "/a"),
        (False, "/ab*b*", "/ab"),
        (False, "*b*bc", "bc"),
        (True, "/ab*b*", "/abb"),
        (True, "*", ""),
        (True, "*", "/line\nbreak"),
        (True, "**", "/anything"),
        (True, "/v1.0", "/v1.0"),
        (False, "/v1.0", "/v1x0"),
        (False, "/v1.0*", "/v1x0"),
        (False, "/[ab]*", "/a"),
        (True, "/[ab]*", "/[ab]c"),
        (False, "/a?", "/ab"),
        (False, "/x*", "/a\n/x"),
        # Percent-encoded or not, in the setting or in the path.
        *(
            (True, pattern, path)
            for pattern in ("/büro", "/b%C3%BCro", "/b%c3%bcro")
            for path in (pattern, "/b%C3%BCro")
        ),
        *((True, pattern, path) for pattern in ("/büro/*", "/b%C3%BCro/*") for path in ("/büro/a", "/b%c3%bcro/a?b")),
        *((True, pattern, path) for pattern in ("/a b/*", "/a%20b/*") for path in ("/a b/c", "/a%20b/c")),
        (True, "/admin/*", "/%61dmin/users"),
        (True, "/admin/*", "/admin%2Fusers"),
        (False, "/Büro", "/b%C3%BCro"),
        (False, "/büro", "/b%25C3%25BCro"),
        (True, "/b%25C3%25BCro", "/b%25C3%25BCro"),
        (False, "/a b", "/a+b"),
        (True, "/a%2Bb", "/a+b"),
        (False, "/büro", "/bu%CC%88ro"),
        # Only a literal `?` or `#` begins a query or fragment; an escaped one belongs to the path.
        (True, "/a%3Fb", "/a%3Fb?c"),
        (True, "/a%23b", "/a%23b#c"),
        (False, "/a", "/a%3Fb"),
        (False, "/a%3Fb", "/a?b"),
        # An escaped star in the setting is a literal star and does not split the pattern.
        (True, "/a%2A", "/a*"),
        (True, "/a%2A", "/a%2a"),
        (False, "/a%2A", "/ab"),
        (True, "/a%2A*c", "/a*bc"),
        (False, "/a%2A*c", "/abc"),
        # Invalid sequences stay as they are.
        (True, "/%zz", "/%zz"),
        (True, "/%C3%BC%ff", "/ü%ff"),
        (False, "/%ff", "/%fe"),
        (False, "/%4", "/%41"),
        # A star inside a character leaves invalid pieces, which match only the same invalid escapes.
        (False, "/b%C3*", "/b%C3%BCro"),
        (False, "/b*%BCro", "/b%C3%BCro"),
        (True, "/b%C3*", "/b%C3ro"),
    ],
)
def test_path_is_excluded_by_exact_match_or_stars(excluded: bool, pattern: str, path: str) -> None:
    assert excluded == (path in PathSet((pattern,)))


# Few letters, so pieces overlap; then characters that might be special.
PATTERNS = st.text("ab*", max_size=6) | st.text("aA/.*?[", max_size=8)
PATHS = st.text("ab", max_size=5) | st.text("aA/.?#[\n", max_size=10)


@given(st.text("aü*", max_size=5), st.text("aü?#", max_size=5), st.data())
def test_escaped_and_literal_characters_match(pattern: str, path: str, data: st.DataObject) -> None:
    """Any character may be escaped, except stars and the `?` or `#` that ends a path."""

    def spelt(text: str) -> str:
        return "".join(escaped(char) if char not in "*?#" and data.draw(st.booleans()) else char for char in text)

    def escaped(char: str) -> str:
        return "".join(f"%{byte:02X}" for byte in char.encode())

    assert (path in PathSet((pattern,))) == (spelt(path) in PathSet((spelt(pattern),)))


@settings(max_examples=500)
@given(st.lists(PATTERNS, max_size=4), PATHS)
def test_paths_match_as_regular_expressions_would(patterns: list[str], path: str) -> None:
    bare = re.split("[?#]", path)[0]
    models = ["".join("(?s:.)*" if char == "*" else f"[{re.escape(char)}]" for char in pattern) for pattern in patterns]
    assert any(re.fullmatch(model, bare) for model in models) == (path in PathSet(tuple(patterns)))


def test_cost_of_many_stars_is_linear() -> None:
    """A regular expression would need 1024**20 steps to find no match."""
    assert "/" + "a" * 1023 not in PathSet(("*a" * 20 + "b",))


@pytest.mark.parametrize(
    ("allowed", "listed", "origin"),
    [
        (True, "https://example.com", "https://example.com"),
        (True, "https://Example.com/", "https://example.com"),
        (False, "https://example.com", "http://example.com"),
        (False, "https://example.com", "https://www.example.com"),
        (False, "https://example.com", "https://example.com:8443"),
        (True, "https://example.com:443", "https://example.com"),
        (True, "http://example.com:80", "http://example.com"),
        (False, "http://example.com:443", "http://example.com"),
        (True, "http://example.com:443", "http://example.com:443"),
        (True, "http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
        (False, "http://[2001:db8::1]:8080", "http://[2001:db8::1]"),
        (True, "*.example.com", "https://www.example.com"),
        (True, "*.example.com", "http://a.b.example.com:8080"),
        (True, "*.Example.com", "https://www.example.com"),
        (False, "*.example.com", "https://example.com"),
        (False, "*.example.com", "https://evilexample.com"),
        (False, "*.example.com", "https://www.example.com.evil.com"),
        (False, "*.example.com", "https://evil.com/.example.com"),
        (False, "*.example.com", "https://www.example.com@evil.com"),
        (False, "*.example.com", "https://www.example.com:x@evil.com"),
        (False, "*.example.com", "https://com"),
        (False, "*.example.com", "www.example.com"),
        (False, "https://example.com", "null"),
        (False, "*.null", "null"),
        (True, "null", "null"),
        (False, "null", "https://null"),
        (False, "https://example.com", ""),
    ],
)
def test_origin_is_allowed_exactly_or_as_a_subdomain(allowed: bool, listed: str, origin: str) -> None:
    assert allowed == (origin in origins(listed))


def test_origins_of_every_form_can_be_combined() -> None:
    known = origins("https://a.example", "*.b.example", "null")
    assert [True, True, True, False] == [
        origin in known for origin in ("https://a.example", "https://x.b.example", "null", "https://c.example")
    ]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("example.com", "https://example.com"),
        ("example.com", "HTTPS://Example.COM:8443/path?query#fragment"),
        ("example.com", "https://user:password@example.com/"),
        ("example.com", "https://example.com./"),
        ("example.com", "https://example.com?x=https://localhost"),
        ("localhost", "http://localhost:3000"),
        ("::1", "http://[::1]:3000/"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("localhost", "capacitor://localhost"),
        (None, "null"),
        (None, ""),
        (None, None),
        (None, "example.com"),
        (None, "//example.com"),
        (None, "file:///home"),
        (None, "about:blank"),
    ],
)
def test_host_of(host: str | None, url: str | None) -> None:
    assert host == host_of(url)


@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ("https://example.com", "https://example.com"),
        ("https://example.com", "HTTPS://Example.COM:443/Path?query#fragment"),
        ("https://example.com:80", "https://example.com:80?query"),
        ("http://example.com", "http://example.com:80#fragment"),
        ("http://example.com", "http://example.com:/"),
        ("https://example.com", "https://user:password@example.com/"),
        ("http://[::1]:3000", "http://[::1]:03000/"),
        ("capacitor://localhost", "capacitor://localhost/index.html"),
        ("https://example.com.", "https://example.com./"),
        (None, "https://example.com:x/"),
        (None, "https://example.com:1:2/"),
        (None, "https://example.com:123456/"),
        (None, "https://[::1]x/"),
        (None, "https:///path"),
        (None, "file:///home"),
        (None, "null"),
        (None, "about:blank"),
        (None, ""),
        (None, None),
    ],
)
def test_origin_of(origin: str | None, url: str | None) -> None:
    assert origin == origin_of(url)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (True, None, False, False)),
        ({"tracking": False, "allow_localhost": True, "strict": True}, (False, None, True, True)),
    ],
)
def test_site_keeps_its_settings(settings: dict[str, Any], expected: tuple[object, ...]) -> None:
    (site,) = build_sites({"demo": SiteSettings.model_validate(settings)}).values()
    assert ("demo", *expected) == (site.id, site.tracking, site.allowed_origins, site.allow_localhost, site.strict)


@pytest.mark.parametrize(
    ("is_known", "filler"),
    [
        (True, LONGEST_KNOWN_URL * "x"),
        (False, LONGEST_KNOWN_URL * "x" + "y"),
        (False, LONGEST_KNOWN_URL * "\U0001f600"),  # its text takes 1.2 KB, and its host as much again
        (False, LONGEST_KNOWN_URL * "\udcff"),
    ],
    ids=["ascii", "longer", "wide", "not UTF-8"],
)
def test_only_short_ascii_urls_are_remembered(is_known: bool, filler: str) -> None:
    """Otherwise random origins could fill 100 MB."""
    url = "https://" + filler[8:]
    assert host_of(url) == known_host(url).name
    assert is_known is (url in sites._known_hosts)
