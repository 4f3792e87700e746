"""Settings that could only be a mistake: each is an error that says what would be right."""

from pathlib import Path

import pytest

from collector.config import SiteSettings
from tests.configs import SITE, errors_of, read


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ('should begin with "/" or "*"', ""),
        ('should begin with "/" or "*"', "admin/*"),
        ('should begin with "/" or "*"', " /admin"),
        ('should begin with "/" or "*"', "^/admin"),
        ('should begin with "/" or "*"', "%2Aadmin"),
        ('should begin with "/" or "*"', "www.example.com/admin"),
        ('is a whole URL; should be the path alone, "/admin/*"', "https://www.example.com/admin/*"),
        ('is a whole URL; should be the path alone, "/admin"', "HTTP://user@example.com:8080/admin?x#y"),
        ('is a whole URL; should be the path alone, "/admin"', "*://example.com/admin"),
        ('is a whole URL; should be the path alone, "/"', "https://example.com"),
        ('is a whole URL; should be the path alone, "/x"', "capacitor://localhost/x"),
        ('has "#", but page_path is compared without its query and fragment', "/#/admin/*"),
        ('has "#", but page_path is compared without its query and fragment', "*#*"),
        ('has "#", but page_path is compared without its query and fragment', "#/admin"),
        ('has "?", but page_path is compared without its query and fragment', "/search?q=*"),
        ('or write "%3F" for the character itself', "/admin?"),
        ('or write "%23" for the character itself', "/a#b"),
        *(
            ("is longer than page_path can be, 1024 characters", path)
            for path in (
                "/" + 1_024 * "x",
                "/*" + 1_023 * "x" + "*x",
                "/" + 512 * "%20" + 512 * "x",
                "/" + 342 * "%3F",  # an escape in page_path, too
            )
        ),
    ],
)
def test_excluded_path_that_no_page_can_match_is_an_error(tmp_path: Path, words: str, path: str) -> None:
    (error,) = errors_of(tmp_path, f'{SITE}excluded_paths = ["/good", "{path}"]')
    assert error.startswith(f"{tmp_path / 'collector.toml'}: sites.demo.excluded_paths.1: ")
    assert words in error


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "*",
        "/*",
        "*/edit",
        "/büro/*",
        "/a b/*",
        "/b%C3%BCro%zz",
        "%2Fadmin",
        "/a%3Fb",
        "/%23/admin",
        "//double",
        "/x://y",
        "/" + 1_023 * "x",
        "*" * 9 + 1_024 * "x",
        "/" + 1_023 * "%20",
        "/" + 341 * "%3F",
    ],
)
def test_excluded_path_that_a_page_can_match_is_taken_as_it_is_written(tmp_path: Path, path: str) -> None:
    assert {"demo": SiteSettings(excluded_paths=(path,))} == read(tmp_path, f'{SITE}excluded_paths = ["{path}"]').sites
