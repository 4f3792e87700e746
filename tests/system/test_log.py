"""Hostile input to the real process cannot fill a disk: the number of log lines is bounded."""

import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.log.rate_limit import MAX_ALIKE
from tests.log.test_setup import fields
from tests.system.process import READY_S, Process, configure, environment, serving

CONNECTIONS = 1_000

# What port scanners send, and requests that break a parser in different ways.
SCANS = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
    b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",  # RDP
    b"SSH-2.0-Go\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET http://[::1]..@ HTTP/1.1\r\n\r\n",
    b"POST /public/demo/analytics/collect HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /\n2026 ERROR collector: forged HTTP/1.1\r\n\r\n",
    b"*1\r\n$4\r\nINFO\r\n",
    b"\x1b[2J\r\n\r\n",
    b"",
)

# The collector with a bug that each of SCANS triggers, with a traceback in the log.
BROKEN = """
import sys
from collector.edge import decide
decide.read_refusal = lambda head, why: 1 / 0
from collector.cli.main import main
sys.exit(main())
"""


def scan(process: Process) -> None:
    """Connect, send one of SCANS, read until the end, and close; CONNECTIONS times."""
    address = urlsplit(process.url)
    for number in range(CONNECTIONS):
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(SCANS[number % len(SCANS)])
            connection.shutdown(socket.SHUT_WR)
            try:
                while connection.recv(65536):
                    pass
            except ConnectionResetError:
                pass


@pytest.mark.parametrize("workers", [1, 2])
def test_port_scans_and_invalid_requests_write_no_line(tmp_path: Path, workers: int) -> None:
    with serving(tmp_path, server={"workers": workers}) as process:
        before = process.log()
        scan(process)
        assert process.post().status == 201
        assert process.metrics().value("collector_bad_requests_total") > CONNECTIONS / 4
        assert before == process.log()


def test_repeated_tracebacks_become_a_few_and_a_count(tmp_path: Path) -> None:
    """MAX_ALIKE per period, then the count of the others."""
    with serving(tmp_path, command=(sys.executable, "-c", BROKEN)) as process:
        before = len(process.log().splitlines())
        scan(process)
        process.logged(" more like this in ")
        assert process.stop() == 0
    lines = process.log().splitlines()[before:]
    heads = [line for line in lines if not line.startswith("    ")]
    errors = [line for line in heads if " ERROR collector.edge.client_protocol: a connection failed" in line]
    assert MAX_ALIKE <= len(errors)
    assert len(heads) < 10 * MAX_ALIKE
    assert [] == [line for line in heads if "forged" in line]
    assert all(line.isprintable() for line in lines)


def test_crash_of_the_process_is_one_record(tmp_path: Path) -> None:
    broken = "import sys; from collector.cli.main import main; from collector.daemon import single_process as daemon"
    broken += "; daemon.owned = None; sys.exit(main())"
    config = configure(tmp_path)
    command = [sys.executable, "-c", broken, "serve", "--config", str(config)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30)
    heads = [line for line in done.stderr.splitlines() if not line.startswith("    ")]
    assert (1, 1) == (done.returncode, len(heads)), done.stderr
    assert " CRITICAL collector.log.setup: the process ends: TypeError" in heads[0]


# As systemd starts it, but with the socket of its journal elsewhere.
UNDER_SYSTEMD = """
import os, sys
from collector.log import setup as log
log.JOURNAL_SOCKET = {path!r}
stderr = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{{stderr.st_dev}}:{{stderr.st_ino}}"
from collector.cli.main import main
sys.exit(main())
"""


def test_supervisor_and_workers_send_entries_to_systemd(tmp_path: Path) -> None:
    """Each entry has the number of its worker. Nothing is left on stderr."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal, (tmp_path / "stderr").open("wb") as stderr:
        journal.bind(str(tmp_path / "socket"))
        journal.settimeout(READY_S)
        config = configure(tmp_path, server={"workers": 2})
        code = UNDER_SYSTEMD.format(path=str(tmp_path / "socket"))
        command = [sys.executable, "-c", code, "serve", "--config", str(config)]
        popen = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=stderr)
        entries: list[dict[str, str]] = []
        try:
            while not entries or not entries[-1]["MESSAGE"].startswith("listening on http://"):
                entries.append(fields(journal.recv(1 << 20)))
            popen.terminate()
            while sum("every acknowledged event" in entry["MESSAGE"] for entry in entries) < 2:
                entries.append(fields(journal.recv(1 << 20)))
            assert 0 == popen.wait(READY_S)
        finally:
            popen.kill()
            popen.wait()
    assert {None, "0", "1"} == {entry.get("WORKER") for entry in entries}
    assert {"6"} == {entry["PRIORITY"] for entry in entries}
    assert {"collector"} == {entry["SYSLOG_IDENTIFIER"] for entry in entries}
    assert "" == (tmp_path / "stderr").read_text()


def test_lines_have_priorities_under_systemd_without_its_socket(tmp_path: Path) -> None:
    command = (sys.executable, "-c", UNDER_SYSTEMD.format(path=str(tmp_path / "socket")))
    with serving(tmp_path, command=command) as process:
        process.send_signal(signal.SIGHUP)
        process.logged("reloaded")
        (tmp_path / "collector.toml").write_text("no TOML")
        process.send_signal(signal.SIGHUP)
        process.logged("nothing changed")
        assert 0 == process.stop()
    lines = process.log().splitlines()
    assert {"<6>", "<3>"} == {line[:3] for line in lines}
    assert lines[0].startswith("<6>collector.daemon.admin: admin on ")
