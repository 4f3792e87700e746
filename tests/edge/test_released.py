"""Released scripts: pages pin one by its hash, so none may change or go."""

import gzip
import hashlib
import re
from importlib.resources import files
from pathlib import Path

import pytest

from collector.config import Tracker
from collector.edge import script
from collector.edge.script import current, released, scripts

# The SHA-256 of the script of each release. Lines are added (`make tracker-release`), never removed or changed.
RELEASED: tuple[str, ...] = ()

FOLDER = files("collector") / "tracker" / "released"
CHANGELOG = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()


def test_every_released_script_is_there_and_no_other() -> None:
    assert sorted(RELEASED) == sorted(hashlib.sha256(version.content["identity"]).hexdigest() for version in released())
    names = {f"t-{full[:12]}.js{suffix}" for full in RELEASED for suffix in ("", ".br", ".gz")}
    assert {*names, "README"} == {file.name for file in FOLDER.iterdir()}


def test_compressed_form_of_each_script_unpacks_to_it() -> None:
    for version in (current(), *released()):
        assert version.content["identity"] == gzip.decompress(version.content["gzip"])


def test_release_keeps_its_script() -> None:
    """A release empties this section of the changelog."""
    unreleased = re.search(r"^## \[Unreleased\]\n(.*?)^## \[", CHANGELOG, re.DOTALL | re.MULTILINE)
    assert unreleased is not None
    assert unreleased[1].strip() or current().hash in {version.hash for version in released()}


def test_released_scripts_are_served_beside_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "released").mkdir()
    old = b"old();"
    name = f"t-{hashlib.sha256(old).hexdigest()[:12]}.js"
    for suffix, content in {"": old, ".br": b"br", ".gz": gzip.compress(old)}.items():
        (tmp_path / "released" / f"{name}{suffix}").write_bytes(content)
    (tmp_path / "released" / "README").touch()
    monkeypatch.setattr(script, "_FOLDER", tmp_path)
    released.cache_clear()
    try:
        table = scripts(Tracker(script_path="s.js"))
    finally:
        released.cache_clear()
    pinned = {f"{stem}-{version}.js" for stem in "ts" for version in (name[2:14], current().hash)}
    assert {"t.js", "s.js"} | pinned == table.keys()
    assert old == table[name].content["identity"] == table[f"s{name[1:]}"].content["identity"]
