"""The binary in a root folder that contains only glibc and the binary: no Python, shell, /proc, /dev or /tmp."""

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

from collector.events import FIELDS
from tests.crash.conftest import need
from tests.support import body, event
from tests.system.process import Process, configure, serving

CONFIG = "/collector.toml"  # the path inside the root folder
CODECS = ["zstd", "snappy", "gzip", "lz4", "none"]


@pytest.fixture
def root(binary: Path, tmp_path: Path) -> Path:
    need(os.geteuid() == 0, "root, to change the root folder")
    need(Path("/var/lib/dpkg/info/libc6:amd64.list").exists(), "Debian's glibc")
    made = tmp_path / "root"
    for library in re.findall(r"^/lib.*\.so.*", Path("/var/lib/dpkg/info/libc6:amd64.list").read_text(), re.MULTILINE):
        copy = made / library[1:]
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, copy)
        copy.chmod(0o755)
    shutil.copy(binary, made / "collector")
    assert {"collector", "lib", "lib64"} == {path.name for path in made.iterdir()}
    return made


def inside(root: Path) -> tuple[str, ...]:
    return ("/usr/bin/env", "-i", "/usr/sbin/chroot", str(root), "/collector")


def call(root: Path, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [*inside(root), *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def post(process: Process) -> bytes:
    """The raw response to an event."""
    address = urlsplit(process.url)
    payload = body()
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(
            b"POST /public/demo/analytics/collect HTTP/1.1\r\nHost: collector\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(payload), payload)
        )
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_binary_prints_its_version_and_schemas(root: Path) -> None:
    code, version, errors = call(root, "--version")
    assert (0, "") == (code, errors)
    assert re.fullmatch(r"collector [\d.]+, commit [0-9a-f]{7,}(-dirty)?, contract [0-9a-f]{16}, compiled\n", version)
    assert len(FIELDS) == len(json.loads(call(root, "schema", "--json")[1])["properties"])
    assert "received_at" in call(root, "schema", "--parquet")[1]


def test_binary_checks_configurations_and_events(root: Path) -> None:
    configure(root)
    assert 0 == call(root, "check-config", CONFIG)[0]
    configure(root, server={"prot": 1})
    code, _, errors = call(root, "check-config", CONFIG)
    assert (2, True) == (code, "did you mean port?" in errors)
    code, outcomes, errors = call(root, "validate", "-", stdin=json.dumps(event()) + "\n{}\n")
    assert 1 == code
    assert "session_id is required" in outcomes
    assert "1 of 2 events would be stored" in errors


def test_binary_runs_with_closed_standard_streams(root: Path) -> None:
    """There is no /dev/null to replace them. The files that it unpacks and locks must not become standard streams."""
    configure(root)
    for code, config in ((0, CONFIG), (2, "/nothing")):
        command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *inside(root), "check-config", config]
        assert code == subprocess.run(command, timeout=60, check=False).returncode


@pytest.mark.parametrize("workers", [1, 2])
def test_binary_serves_drains_and_recovers_after_a_kill(root: Path, workers: int) -> None:
    server = {"port": 0, "workers": workers}
    storage = {"data_dir": "/data", "min_free_bytes": 0, "flush_interval_s": 3600}
    command = inside(root)
    with serving(root, command=command, config_argument=CONFIG, server=server, storage=storage) as process:
        assert post(process).startswith(b"HTTP/1.1 201 ")
        process.send_signal(signal.SIGKILL)
        process.exit_code()
        assert [] == process.parts()
    with serving(root, command=command, config_argument=CONFIG, server=server, storage=storage) as process:
        assert post(process).startswith(b"HTTP/1.1 201 ")
        assert 0 == process.stop()
        assert 2 == len(process.rows())

    code, found, _ = call(root, "inspect", "/data", "--rows", "1")
    assert (0, True) == (code, '"session_id": "session-1"' in found)
    assert 0 == call(root, "recover", "--config", CONFIG)[0]
    assert 0 == call(root, "expire", "--older-than", "1d", "--config", CONFIG)[0]


def test_binary_writes_and_reads_every_codec(root: Path) -> None:
    for codec in CODECS:
        storage = {"data_dir": "/data", "min_free_bytes": 0, "compression": codec}
        with serving(root, command=inside(root), config_argument=CONFIG, storage=storage) as process:
            for _ in range(200):  # enough rows that columns are compressed
                assert 201 == process.post().status
            assert 0 == process.stop()
    code, found, _ = call(root, "inspect", "/data", "--rows", "1")
    assert (0, True) == (code, '"session_id": "session-1"' in found)
    assert 200 * len(CODECS) == len(process.rows())
