"""The wheel of `pip install .`: with compiled modules if a C compiler is there, else with the source alone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from collector import VERSION
from tests.binary.conftest import ROOT
from tests.crash.conftest import need

CAN_COMPILE = shutil.which("gcc") is not None and Path(sysconfig.get_path("include"), "Python.h").exists()

# By path within the package.
TRACKER = {
    path.relative_to(ROOT / "collector").as_posix(): path.read_bytes()
    for path in (ROOT / "collector" / "tracker").rglob("*")
    if path.is_file()
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the clone, because a build writes into it."""
    copy = tmp_path / "source"
    unrelated = shutil.ignore_patterns(".*", "build", "dist", "data", "tests", "node_modules", "*.egg-info")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=unrelated)
    return copy


def wheel_of(source: Path, folder: Path, path: str) -> Path:
    """Build a wheel with only these folders of programs. mypy and setuptools are those of this environment."""
    options: list[str | Path] = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
    ]
    command: list[str | Path] = [sys.executable, "-m", "pip", "wheel", *options, source]
    subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, timeout=300, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def version_of(wheel: Path, folder: Path) -> str:
    """What the wheel's collector prints as its version."""
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    command = [sys.executable, "-P", "-m", "collector", "--version"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True).stdout


def tracker_in(packed: dict[str, bytes]) -> dict[str, bytes]:
    """The content of each file of the tracker, by its path within the package."""
    return {name.partition("collector/")[2]: data for name, data in packed.items() if "collector/tracker/" in name}


def test_wheel_has_compiled_modules_where_a_compiler_is(source: Path, tmp_path: Path) -> None:
    need(CAN_COMPILE, "gcc and the headers of this Python")
    wheel = wheel_of(source, tmp_path / "wheel", os.environ["PATH"])
    assert "none-any" not in wheel.name
    printed = version_of(wheel, tmp_path / "installed")
    assert (f"collector {VERSION}", "compiled") == (printed.split(",")[0], printed.split()[-1])


def test_wheel_has_the_source_alone_where_no_compiler_is(source: Path, tmp_path: Path) -> None:
    """And the tracker, so that nobody needs Node.js."""
    wheel = wheel_of(source, tmp_path / "wheel", str(tmp_path))
    assert wheel.name.endswith("py3-none-any.whl")
    with ZipFile(wheel) as archive:
        assert TRACKER == tracker_in({name: archive.read(name) for name in archive.namelist()})
    printed = version_of(wheel, tmp_path / "installed")
    assert (f"collector {VERSION}", "interpreted") == (printed.split(",")[0], printed.split()[-1])


def test_wheel_has_the_source_alone_where_the_compiler_fails(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "bin" / "gcc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", "gcc")
    wheel = wheel_of(source, tmp_path / "wheel", f"{compiler.parent}:{os.environ['PATH']}")
    assert wheel.name.endswith("py3-none-any.whl")
    printed = version_of(wheel, tmp_path / "installed")
    assert (f"collector {VERSION}", "interpreted") == (printed.split(",")[0], printed.split()[-1])


def test_source_distribution_has_the_tracker_and_gives_the_same_wheel(source: Path, tmp_path: Path) -> None:
    """Wheels of an index are built from it."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        tmp_path,
        source,
    ]
    subprocess.run(command, capture_output=True, timeout=300, check=True)
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    found = {str(path): path.read_bytes() for path in unpacked.rglob("*") if path.is_file()}
    assert TRACKER == tracker_in(found)
    printed = version_of(wheel_of(unpacked, tmp_path / "wheel", str(tmp_path)), tmp_path / "installed")
    assert f"collector {VERSION}" == printed.split(",")[0]
