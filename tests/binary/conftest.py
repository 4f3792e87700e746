"""The binary, `dist/collector`: `make test` builds it where it can."""

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
    """Where binaries unpack in this test, empty."""
    folder = tmp_path / "unpacked"
    monkeypatch.setenv("COLLECTOR_UNPACK_DIR", str(folder))
    return folder


def another_version(binary: Path, copy: Path) -> Path:
    """A binary with the same payload under another hash, as another version would have."""
    (name,) = set(
        subprocess.run(["grep", "-ao", "collector-[0-9a-f]\\{16\\}", binary], capture_output=True).stdout.split()
    )
    other = name[:-1] + (b"1" if name.endswith(b"0") else b"0")
    copy.write_bytes(binary.read_bytes().replace(name, other))
    shutil.copymode(binary, copy)
    return copy
