"""The product of `make binary`: its size, version, licences, and that builds are reproducible."""

import os
import subprocess
from pathlib import Path

import pytest

from collector import VERSION
from collector.events import CONTRACT_HASH
from tests.binary.conftest import ROOT
from tests.crash.conftest import need

TOOLS = ROOT / ".venv-binary" / "bin" / "python"
COMPILER = ROOT / ".venv-binary-compile" / "bin" / "python"


def test_binary_is_smaller_than_60_megabytes(binary: Path) -> None:
    assert binary.stat().st_size < 60_000_000


@pytest.mark.usefixtures("unpack_dir")
def test_binary_prints_version_commit_and_contract(binary: Path) -> None:
    describe = ["git", "describe", "--always", "--exclude=*", "--abbrev=7"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    printed = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    facts = f"{VERSION}, commit {commit}, contract {CONTRACT_HASH}, compiled"
    assert f"collector {facts}\n" == printed.replace("-dirty", "")


def test_two_builds_of_one_commit_are_identical(binary: Path, tmp_path: Path) -> None:
    """Byte for byte, so also the hash that names the unpacked folder."""
    need(TOOLS.exists(), "make binary")
    built = []
    for folder in (tmp_path / "one", tmp_path / "another"):
        tree, out = folder / "tree", folder / "collector"
        bundle, pack = ([TOOLS, ROOT / "packaging" / name] for name in ("bundle.py", "pack.py"))
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        folder.mkdir()
        compiling: list[str | Path] = [COMPILER, ROOT / "packaging" / "compile.py", folder / "source"]
        subprocess.run(compiling, cwd=ROOT, timeout=300, check=True)
        subprocess.run([*bundle, tree, "1234567", folder / "source"], env=environment, timeout=300, check=True)
        subprocess.run([*pack, tree, out], timeout=300, check=True, stdout=subprocess.DEVNULL)
        built.append(out.read_bytes())
    assert built[0] == built[1]


def test_binary_contains_the_tracker(binary: Path, unpack_dir: Path) -> None:
    """Byte for byte: pages pin it by its hash."""
    subprocess.run([binary, "--unpack-only"], capture_output=True, timeout=60, check=True)
    (folder,) = unpack_dir.iterdir()
    packed, source = folder / "app" / "collector" / "tracker", ROOT / "collector" / "tracker"
    assert {"t.js", "t.js.br", "t.js.gz", "collector.d.ts", "released"} <= {path.name for path in packed.iterdir()}
    for path in source.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (packed / path.relative_to(source)).read_bytes()


def test_binary_contains_sqlite(binary: Path, unpack_dir: Path) -> None:
    """With a library of its own: `journal/answers.py` needs it, and nothing else would miss it at the start."""
    subprocess.run([binary, "--unpack-only"], capture_output=True, timeout=60, check=True)
    (folder,) = unpack_dir.iterdir()
    program = "import sqlite3; sqlite3.connect(':memory:'); print(open('/proc/self/maps').read())"
    maps = subprocess.check_output([folder / "bin/collector", "-I", "-S", "-B", "-c", program], text=True, timeout=60)
    assert {str(folder / "lib/libsqlite3.so.0")} == {part for part in maps.split() if "libsqlite3" in part}


def test_binary_contains_the_licence_of_every_package(binary: Path, unpack_dir: Path) -> None:
    subprocess.run([binary, "--unpack-only"], capture_output=True, timeout=60, check=True)
    (folder,) = unpack_dir.iterdir()
    licensed = {path.name.partition("-")[0] for path in (folder / "licences").iterdir()}
    own = {"collector", "collector__mypyc", "__main__"}
    modules = {path.stem.partition(".")[0] for path in (folder / "app").iterdir()}
    distributions = {"attr": "attrs", "crawleruseragents": "crawler_user_agents", "re2": "google_re2"}
    assert {distributions.get(module, module) for module in modules - own} <= licensed
    assert "mypy" in licensed, "compiled modules contain mypyc's C code"
    of_debian = {path.name for path in (folder / "licences" / "debian").iterdir()}
    assert {"python3.11", "libzstd1", "libsqlite3-0", "libssl3", "libstdc++6", "GPL-3"} <= of_debian
