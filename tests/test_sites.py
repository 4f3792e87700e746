"""Sites: excluded paths, allowed origins, and the host of a URL."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.config import SiteSettings
from collector.sites import OriginSet, PathSet, build_site, build_sites, host_of


def origins(*listed: str) -> OriginSet:
    """As a configuration file would list them."""
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
    ],
)
def test_path_is_excluded_by_exact_match_or_stars_alone(excluded: bool, pattern: str, path: str) -> None:
    assert excluded == (path in PathSet((pattern,)))


# Few letters, so that pieces overlap; then all that might be special.
PATTERNS = st.text("ab*", max_size=6) | st.text("aA/.*?[", max_size=8)
PATHS = st.text("ab", max_size=5) | st.text("aA/.?#[\n", max_size=10)


@settings(max_examples=500)
@given(st.lists(PATTERNS, max_size=4), PATHS)
def test_paths_match_as_regular_expressions_would(patterns: list[str], path: str) -> None:
    bare = re.split("[?#]", path)[0]
    models = ["".join("(?s:.)*" if char == "*" else f"[{re.escape(char)}]" for char in pattern) for pattern in patterns]
    assert any(re.fullmatch(model, bare) for model in models) == (path in PathSet(tuple(patterns)))


def test_many_stars_cost_no_more_than_the_text() -> None:
    """A regular expression would need 1024**20 steps to say no."""
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


def test_origins_of_every_form_stand_side_by_side() -> None:
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
    ("settings", "expected"),
    [
        ({}, (True, None, False, False)),
        ({"tracking": False, "allow_localhost": True, "strict": True}, (False, None, True, True)),
    ],
)
def test_site_keeps_its_settings(settings: dict[str, Any], expected: tuple[object, ...]) -> None:
    (site,) = build_sites({"demo": SiteSettings.model_validate(settings)}).values()
    assert ("demo", *expected) == (site.id, site.tracking, site.allowed_origins, site.allow_localhost, site.strict)
