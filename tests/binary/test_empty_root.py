"""The binary in a root folder with glibc, itself and nothing else: no Python, no shell, no /proc, /dev or /tmp."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.crash.conftest import need
from tests.support import body, event
from tests.system.process import configure, serving

EMPTY_ENVIRONMENT = ("/usr/bin/env", "-i")


@pytest.fixture
def root(binary: Path, tmp_path: Path) -> Path:
    need(os.geteuid() == 0, "root, to change the root folder")
    made = tmp_path / "root"
    glibc = subprocess.run(["dpkg", "-L", "libc6"], capture_output=True, text=True).stdout.split()
    need(bool(glibc), "Debian's glibc")
    for library in glibc:
        if re.search(r"^/lib.*\.so", library):
            copy = made / library[1:]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(library, copy)
            copy.chmod(0o755)
    shutil.copy(binary, made / "collector")
    assert {"collector", "lib", "lib64"} == {path.name for path in made.iterdir()}
    return made


def inside(root: Path) -> tuple[str, ...]:
    return (*EMPTY_ENVIRONMENT, "/usr/sbin/chroot", str(root), "/collector")


def call(root: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = (*inside(root), *arguments)
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_every_command_but_serve_runs(root: Path) -> None:
    version = call(root, "--version")
    assert (0, "") == (version.returncode, version.stderr)
    assert re.fullmatch(
        r"collector \d+\.\d+\.\d+, commit [0-9a-f]{7,}(-dirty)?, contract [0-9a-f]{16}\n", version.stdout
    )
    assert 61 == len(json.loads(call(root, "schema", "--json").stdout)["properties"])
    assert "received_at" in call(root, "schema", "--parquet").stdout

    configure(root, storage={"data_dir": "/data"})
    assert 0 == call(root, "check-config", "/collector.toml").returncode
    (root / "bad.toml").write_text("[server]\nprot = 1\n")
    bad = call(root, "check-config", "/bad.toml")
    assert 2 == bad.returncode
    assert "did you mean port?" in bad.stderr

    validated = call(root, "validate", "-", stdin=json.dumps(event()) + "\n{}\n")
    assert (1, "") == (validated.returncode, validated.stderr)
    assert "stored" in validated.stdout
    for arguments in (("inspect", "/data"), ("recover",), ("expire", "--older-than", "1d")):
        assert call(root, *arguments).stderr is not None


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "brotli", "lz4", "none"])
def test_every_codec_is_in_it(root: Path, compression: str) -> None:
    pass


@pytest.mark.parametrize("workers", [1, 2])
def test_it_serves_drains_and_recovers(root: Path, workers: int) -> None:
    pass
