"""The demo shop: complete, by itself, and nobody's but that of `make run`."""

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.config import Tracker
from collector.daemon.demo import read_demo
from collector.events import CONTRACT
from tests.docs.tables import ROOT

CONFIG = ROOT / "demo" / "collector.toml"
README = (ROOT / "README.md").read_text()
FILES = {name: content.decode() for name, content in read_demo(Tracker(demo_dir=str(ROOT / "demo" / "shop"))).items()}


def test_make_run_serves_the_shop_from_the_clone() -> None:
    demo_dir = tomllib.loads(CONFIG.read_text())["tracker"]["demo_dir"]
    assert not Path(demo_dir).is_absolute()
    assert (ROOT / demo_dir / "index.html").is_file()


def test_nobody_else_has_a_demo() -> None:
    """Neither an example of a configuration nor the container."""
    folders = [ROOT / name for name in ("systemd", "packaging", "docs")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert [] == [
        path.name for path in files if re.search(r"^\s*demo_dir\s*=|DEMO_DIR=", path.read_text(), re.MULTILINE)
    ]


def test_panel_says_how_to_cause_each_type() -> None:
    hints = re.findall(r"^  (\w+): \"[A-Z].*\.\",$", FILES["panel.js"], re.MULTILINE)
    assert sorted(CONTRACT["properties"]["event_type"]["enum"]) == sorted(hints)


@pytest.mark.parametrize("name", ["index.html", "panel.html"])
def test_page_loads_only_its_own_files_and_the_tracker(name: str) -> None:
    """`href` of `link`, and every `src`. Style sheets and scripts name no other host either (below)."""
    loaded = re.findall(r"<(?:link|script|iframe|img)\b[^>]*?(?:href|src)=\"([^\"]*)\"", FILES[name])
    assert loaded
    assert set() == set(loaded) - FILES.keys() - {"/public/demo/t.js"}


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".css", ".js"))])
def test_style_sheets_and_scripts_name_no_host(name: str) -> None:
    assert [] == re.findall(r"https?://[^\s\"']+|@import|url\(", FILES[name])


def test_links_to_other_sites_lead_to_example_com() -> None:
    links = re.findall(r"href=\"(https?:[^\"]*)\"", FILES["index.html"])
    assert {"example.com"} == {urlsplit(link).hostname for link in links}


def test_command_of_the_panel_is_that_of_the_readme() -> None:
    command = re.search(r"<pre id=\"command\"[^>]*>(.*?)</pre>", FILES["panel.html"])
    assert command is not None
    assert f"\n{command[1]}\n" in README
