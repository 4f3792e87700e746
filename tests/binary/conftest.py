"""The binary, `dist/collector`. `make test` builds it if the build tools are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.crash.conftest import need

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "dist" / "collector"


@pytest.fixture
def binary() -> Path:
    need(BUILT.exists(), "dist/collector: make binary")
    return BUILT


@pytest.fixture
def unpack_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder into which binaries unpack in this test; it does not exist yet."""
    folder = tmp_path / "unpacked"
    monkeypatch.setenv("COLLECTOR_UNPACK_DIR", str(folder))
    return folder


def another_version(binary: Path, copy: Path) -> Path:
    """A binary with the same payload but another folder name, like another version."""
    (name,) = set(
        subprocess.run(["grep", "-ao", "collector-[0-9a-f]\\{16\\}", binary], capture_output=True).stdout.split()
    )
    other = name[:-1] + (b"1" if name.endswith(b"0") else b"0")
    copy.write_bytes(binary.read_bytes().replace(name, other))
    shutil.copymode(binary, copy)
    return copy
