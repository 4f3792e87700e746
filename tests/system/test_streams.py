"""Standard streams that are closed, full or broken: the collector serves; commands report what they cannot write."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from collector.config import SiteSettings
from collector.events import CONTRACT, Event
from collector.ingest.pipeline import Arrival, accept
from collector.journal.record import Header, crc_seed, encode, encode_header
from collector.sites import build_site
from tests.support import NOON_US, body, read_rows
from tests.system.process import COMMAND, READY_S, STOP_S, Process, configure, environment, wait_until

FULL = "collector: cannot write to standard output: No space left on device\n"
CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}
BUFFERED = {name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"}


def shell(folder: Path, redirect: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the collector until it ends, with a shell redirection after its arguments."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *COMMAND, *arguments],
        cwd=folder,
        env=BUFFERED | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READY_S,
    )


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


@contextmanager
def redirected(folder: Path, redirect: str, workers: int = 1) -> Iterator[Process]:
    """A collector that is ready, although its log may be unreadable."""
    port, admin_port = free_ports()
    configure(folder, server={"port": port, "workers": workers}, admin={"port": admin_port})
    with (folder / "stderr").open("wb") as log:
        popen = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {redirect}', "sh", *COMMAND, "serve"],
            cwd=folder,
            env=BUFFERED,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    process = Process(popen, folder, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")

    def is_ready() -> bool:
        assert popen.poll() is None, f"exit code {popen.returncode}:\n{process.log()}"
        try:
            return process.ask("/readyz")[0] == 200
        except OSError:
            return False

    try:
        wait_until(is_ready, "it is ready")
        yield process
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(STOP_S)


def descriptors(pid: int) -> dict[str, str]:
    """Where the standard descriptors of a process lead."""
    return {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in ("0", "1", "2")}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("closed", CLOSED)
def test_collector_with_closed_streams_serves_and_stops_cleanly(closed: str, workers: int, tmp_path: Path) -> None:
    """No segment, lock or socket gets such a descriptor: stray output would be written into it."""
    with redirected(tmp_path, CLOSED[closed], workers) as process:
        assert 201 == process.post().status
        pid = process.popen.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert (workers if workers > 1 else 0) == len(children)
        for each in (pid, *map(int, children)):
            found = descriptors(each)
            expected = {"stdin": "0", "stdout": "1", "stderr": "2", "all": "012"}[closed]
            assert dict.fromkeys(expected, "/dev/null") == {number: found[number] for number in expected}
            assert {"/dev/null", str(tmp_path / "stderr")} >= set(found.values())
        assert 0 == process.stop()
        assert 1 == len(process.rows())
    assert "Traceback" not in process.log()
    assert ("stopped; every" in process.log()) is (closed in ("stdin", "stdout"))


@pytest.mark.parametrize("workers", [1, 2])
def test_collector_whose_log_is_full_serves_and_stops_cleanly(workers: int, tmp_path: Path) -> None:
    """Each reload logs a line."""
    with redirected(tmp_path, "2>/dev/full", workers) as process:
        for _ in range(3):
            assert 201 == process.post().status
            process.send_signal(signal.SIGHUP)
        wait_until(lambda: process.metrics().value("collector_reloads_total", outcome="done") >= 1, "it was reloaded")
        assert 0 == process.stop()
        assert 3 == len(process.rows())
    assert "" == process.log()


def test_collector_whose_log_has_no_reader_serves_and_stops_cleanly(tmp_path: Path) -> None:
    """As with `collector serve 2>&1 | logger` after logger has died."""
    with redirected(tmp_path, "2>&1 | (read line; exit)") as process:
        assert 201 == process.post().status
        # The shell waits for its pipeline, and the collector is one of its children.
        pid = process.popen.pid
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        (collector,) = [
            each for each in children if b"serve" in Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        ]
        os.kill(collector, signal.SIGTERM)
        process.exit_code()
        assert 1 == len(process.rows())


COMMANDS = {
    "check-config": ("check-config", "collector.toml"),
    "validate": ("validate", "events"),
    "inspect": ("inspect", "data"),
    "recover": ("recover",),
    "expire": ("expire", "--older-than", "1d"),
    "schema": ("schema", "--json"),
    "columns": ("schema", "--parquet"),
    "version": ("--version",),
    "help": ("--help",),
    "help of a command": ("serve", "--help"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    configure(tmp_path)
    (tmp_path / "events").write_bytes(body() + b"\n")
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", [*COMMANDS, "doctor"])
def test_unwritable_output_exits_1_with_one_line(command: str, folder: Path) -> None:
    done = shell(folder, ">/dev/full", *COMMANDS.get(command, (command,)))
    errors = done.stderr.replace("1 of 1 event would be stored\n", "")
    assert (1, FULL) == (done.returncode, errors)


def test_command_that_fails_reports_unwritable_output_too(folder: Path) -> None:
    (folder / "events").write_bytes(b"{}\n")
    done = shell(folder, ">/dev/full", "validate", "events")
    assert (1, "0 of 1 event would be stored\n" + FULL) == (done.returncode, done.stderr)


@pytest.mark.parametrize("command", ["check-config", "schema", "help"])
def test_unwritable_output_exits_1_without_buffering_too(command: str, folder: Path) -> None:
    done = shell(folder, ">/dev/full", *COMMANDS[command], PYTHONUNBUFFERED="1")
    assert (1, FULL) == (done.returncode, done.stderr)


@pytest.mark.parametrize("command", ["check-config", "inspect", "help"])
def test_unwritable_output_exits_1_if_stderr_is_unwritable_too(command: str, folder: Path) -> None:
    done = shell(folder, ">/dev/full 2>/dev/full", *COMMANDS[command])
    assert (1, "", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_with_closed_streams_does_its_work(command: str, folder: Path) -> None:
    for closed in ("stdout", "all"):
        done = shell(folder, CLOSED[closed], *COMMANDS[command])
        assert 0 == done.returncode, done.stderr
        assert "Traceback" not in done.stderr


def test_closed_input_counts_as_empty(folder: Path) -> None:
    done = shell(folder, "<&-", "validate")
    assert (0, "", "0 of 0 events would be stored\n") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("code", "arguments"),
    [(2, ("check-config", "nothing")), (2, ("nonsense",)), (1, ("inspect", "nothing")), (1, ("validate", "nothing"))],
)
def test_unwritable_stderr_does_not_change_the_exit_code(
    code: int, arguments: tuple[str, ...], redirect: str, folder: Path
) -> None:
    done = shell(folder, redirect, *arguments)
    assert (code, "", "") == (done.returncode, done.stdout, done.stderr)


def test_command_waits_for_a_non_blocking_output(folder: Path) -> None:
    """Another process may have made the pipe non-blocking. It holds only 4 KB of the 12 KB of output."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    command = [*COMMAND, "schema", "--json"]
    popen = subprocess.Popen(command, cwd=folder, env=BUFFERED, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with open(reader, "rb") as output, popen:

        def waiting() -> int:
            return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), "little")

        wait_until(lambda: waiting() == 4096 or popen.poll() is not None, "the command has filled the pipe")
        assert CONTRACT == json.loads(output.read())
        assert (b"", 0) == (popen.stderr and popen.stderr.read(), popen.wait(STOP_S))


def test_characters_outside_the_output_encoding_are_escaped(folder: Path) -> None:
    """File names are bytes, and a terminal may support only ASCII."""
    name = b"gr\xfc\xdfe.toml"
    os.rename(os.fsencode(folder / "collector.toml"), os.fsencode(folder) + b"/" + name)
    done = subprocess.run(
        [*COMMAND, "check-config", name], cwd=folder, env=BUFFERED | {"PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert (0, b"") == (done.returncode, done.stderr)
    shown = [b"gr\\udcfc\\udcdfe.toml", name]  # the binary ignores Python's variables, and writes the name as it is
    assert done.stdout.removesuffix(b": valid; 1 site\n") in shown


def test_unwritable_output_does_not_stop_a_recovery_halfway(folder: Path) -> None:
    """All segments are recovered, although the line of the first cannot be printed."""
    (folder / "data" / "journal" / "0").mkdir(parents=True)
    arrival = Arrival(build_site("demo", SiteSettings()), ip_address("192.0.2.1"))
    kept = accept(arrival, body(), NOON_US, lambda address, received_us: None)
    assert isinstance(kept, Event)
    for number in range(3):
        segment_id = f"{number:016x}"
        data = encode_header(Header(segment_id, by_site=True)) + encode([kept], crc_seed(segment_id))
        (folder / "data" / "journal" / "0" / f"20260528T202640Z-{segment_id}.segment").write_bytes(data)
    done = shell(folder, ">/dev/full", "recover", PYTHONUNBUFFERED="1")
    assert (1, FULL) == (done.returncode, done.stderr)
    assert 3 == len(read_rows(folder / "data" / "events"))
