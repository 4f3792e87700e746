"""What `make binary` makes."""

import os
import subprocess
from pathlib import Path

import pytest

from collector import VERSION
from collector.events import CONTRACT_HASH
from tests.binary.conftest import ROOT
from tests.crash.conftest import need

TOOLS = ROOT / ".venv-binary" / "bin" / "python"


def test_it_is_smaller_than_60_megabytes(binary: Path) -> None:
    assert binary.stat().st_size < 60_000_000


@pytest.mark.usefixtures("unpack_dir")
def test_it_tells_version_commit_and_contract(binary: Path) -> None:
    describe = ["git", "describe", "--always", "--exclude=*", "--abbrev=7"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.replace("-dirty", "") == f"collector {VERSION}, commit {commit}, contract {CONTRACT_HASH}\n"


def test_two_builds_of_one_commit_are_the_same(binary: Path, tmp_path: Path) -> None:
    """Whoever builds, and wherever: the hash of the payload, so the name of its folder, and every other byte."""
    need(TOOLS.exists(), "make binary")
    made = []
    for folder in (tmp_path / "one", tmp_path / "another"):
        tree, out = folder / "tree", folder / "collector"
        bundle, pack = ([TOOLS, ROOT / "packaging" / name] for name in ("bundle.py", "pack.py"))
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        folder.mkdir()
        subprocess.run([*bundle, tree, "1234567"], env=environment, timeout=300, check=True)
        subprocess.run([*pack, tree, out], timeout=300, check=True, stdout=subprocess.DEVNULL)
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_it_carries_the_licences_of_what_is_in_it(binary: Path, unpack_dir: Path) -> None:
    subprocess.run([binary, "--unpack-only"], capture_output=True, timeout=60, check=True)
    (folder,) = unpack_dir.iterdir()
    licensed = {path.name.partition("-")[0] for path in (folder / "licences").iterdir()}
    own = {"collector", "__main__"}
    modules = {path.stem.partition(".")[0] for path in (folder / "app").iterdir()}
    assert modules - own - {"attr"} <= licensed  # of the distribution attrs
    of_debian = {path.name for path in (folder / "licences" / "debian").iterdir()}
    assert {"python3.11", "libzstd1", "libssl3", "libstdc++6", "GPL-3"} <= of_debian
