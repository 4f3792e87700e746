"""`collector tracker`: the HTML that loads the tracker, and the types of its API."""

import hashlib
from base64 import b64encode
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from tests.cli.in_process import Capture, run

FOLDER = files("collector") / "tracker"
SCRIPT = (FOLDER / "t.js").read_bytes()
HASH = hashlib.sha256(SCRIPT).hexdigest()[:12]
INTEGRITY = f"sha384-{b64encode(hashlib.sha384(SCRIPT).digest()).decode()}"
URL = "https://stats.example.net"


class Scripts(HTMLParser):
    """The attributes of each script element, as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self.found.append(dict(attrs))


def scripts(html: str) -> list[dict[str, str | None]]:
    parser = Scripts()
    parser.feed(html)
    parser.close()
    return parser.found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "collector.toml"
    file.write_text("[sites.shop]\n")
    return file


def test_snippet_is_one_line_of_html_for_each_form(config: Path, capsys: Capture) -> None:
    assert 0 == run("tracker", "--snippet", "shop", "--url", URL, "--config", config)
    out, err = capsys.readouterr()
    assert [
        f'<script defer src="{URL}/public/shop/t.js"></script>',
        f'<script defer src="{URL}/public/shop/t-{HASH}.js" integrity="{INTEGRITY}" crossorigin="anonymous" '
        'data-site="shop"></script>',
        f'<noscript><img src="{URL}/public/shop/p.gif" alt="" width="1" height="1" '
        'referrerpolicy="no-referrer-when-downgrade"></noscript>',
    ] == [line for line in out.splitlines() if line and not line.startswith("<!--")]
    assert "" == err


def test_snippet_names_the_set_paths(config: Path, capsys: Capture) -> None:
    config.write_text('[sites.shop]\n[tracker]\nscript_path = "s.js"\ncollect_path = "in"\n')
    assert 0 == run("tracker", "--snippet", "shop", "--url", URL, "--config", config)
    latest, pinned = scripts(capsys.readouterr().out)
    assert {"defer": None, "src": f"{URL}/public/shop/s.js", "data-path": "in"} == latest
    assert (f"{URL}/public/shop/s-{HASH}.js", "in") == (pinned["src"], pinned["data-path"])


def test_snippet_without_a_url_has_a_placeholder_and_says_so(config: Path, capsys: Capture) -> None:
    """On stderr, so that the output can still be put into a page."""
    assert 0 == run("tracker", "--snippet", "shop", "--config", config)
    out, err = capsys.readouterr()
    assert 3 == out.count("https://collect.example.com/")
    assert "Replace https://collect.example.com by the address of your collector, or give it with --url.\n" == err


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://a.example/", "https://a.example"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("HTTP://[::1]:80/", "http://[::1]:80"),
        ("https://shop.example/stats/", "https://shop.example/stats"),
        ("https://shop.example/a&amp;b'c", "https://shop.example/a&amp;b'c"),
    ],
)
def test_url_may_have_a_port_and_a_path(config: Path, capsys: Capture, url: str, base: str) -> None:
    """A browser reads it back as it was given."""
    assert 0 == run("tracker", "--snippet", "shop", "--url", url, "--config", config)
    latest, pinned = scripts(capsys.readouterr().out)
    assert [f"{base}/public/shop/t.js", f"{base}/public/shop/t-{HASH}.js"] == [latest["src"], pinned["src"]]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "//a.example",
        "ftp://a.example",
        "javascript:alert(1)",
        "https://",
        "https:///x",
        "https://:80",
        "https://a.example:x",
        "https://a.example:0",
        "https://a.example:99999",
        "https://user@a.example",
        "https://[::1",
        "https://a.example?x",
        "https://a.example/#x",
        'https://a.example/"onload="x',
        "https://a.example/<script>",
        "https://a.example/ b",
        "https://a.example\n",
        "https://é.example",
    ],
)
def test_url_that_is_no_address_of_a_collector_is_an_error(config: Path, capsys: Capture, url: str) -> None:
    assert 2 == run("tracker", "--snippet", "shop", f"--url={url}", "--config", config)
    out, err = capsys.readouterr()
    assert ("", True) == (
        out,
        err.startswith('collector: --url: should be "https://host", or "http://host:port/path"; '),
    )
    assert 1 == len(err.splitlines())


@pytest.mark.parametrize("site", ["", "a b", "a/b", '"><script>', "x" * 65, "é"])
def test_text_that_is_no_site_id_is_an_error(config: Path, capsys: Capture, site: str) -> None:
    assert 2 == run("tracker", f"--snippet={site}", "--config", config)
    assert ("", "collector: --snippet: a site id is 1 to 64 characters out of A-Z a-z 0-9 _ -\n") == capsys.readouterr()


def test_site_that_the_configuration_lacks_is_an_error(config: Path, capsys: Capture) -> None:
    assert 2 == run("tracker", "--snippet", "Shop", "--config", config)
    assert ("", f"collector: {config}: has no [sites.Shop] section\n") == capsys.readouterr()


def test_missing_configuration_is_an_error(tmp_path: Path, capsys: Capture) -> None:
    assert 2 == run("tracker", "--snippet", "shop", "--config", tmp_path / "gone.toml")
    assert "cannot be read: No such file or directory" in capsys.readouterr().err


def test_types_are_printed_without_a_configuration(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert 0 == run("tracker", "--types")
    assert ((FOLDER / "collector.d.ts").read_text(), "") == capsys.readouterr()


def test_what_to_print_must_be_said(capsys: Capture) -> None:
    assert 2 == run("tracker")
    assert 2 == run("tracker", "--types", "--snippet", "shop")
    assert "not allowed with" in capsys.readouterr().err
