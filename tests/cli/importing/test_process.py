"""`collector import` as a process: signals while it reads a pipe, and what a terminal shows."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.importing.server import Scripted, numbered, scripted
from tests.system.process import environment, wait_until

COMMAND = (sys.executable, "-m", "collector", "import")
WITHIN_S = 20.0


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as started:
        yield started


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("written", [0, 25_000])
def test_stop_does_not_wait_for_a_pipe(written: int, number: signal.Signals, code: int, server: Scripted) -> None:
    """The pipe stays open and silent. Two batches are full and were answered; the third would get more lines."""
    process = subprocess.Popen(
        [*COMMAND, "-", "--site", "demo", "--url", server.url],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        # Signals are handled before this is printed.
        assert process.stderr.readline().startswith(b"collector: without --key-file")
        process.stdin.write(b"{}\n" * written)
        process.stdin.flush()
        wait_until(lambda: len(server.received) == written // 10_000, "all full batches were sent")
        process.send_signal(number)
        assert code == process.wait(WITHIN_S)
        last = process.stderr.read().decode()
    finally:
        process.kill()
        process.wait(WITHIN_S)
        process.stdin.close()
        process.stderr.close()
    full = written // 10_000 * 10_000
    assert re.fullmatch(
        rf"stopped: ({full}|{max(full - 10_000, 0)}) events stored and 0 not stored before line (\d+); "
        r"go on with --from-line \2\n",
        last,
    )


def test_reader_of_the_output_that_leaves_stops_the_import(tmp_path: Path, server: Scripted) -> None:
    """What could not be printed would be lost, so nothing more is sent. The batch is done, and is not sent again."""
    file = tmp_path / "events"
    file.write_bytes(b"[]\n".join([b"{}\n", *[b"{}\n"] * 10_000]))
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [*COMMAND, str(file), "--site", "demo", "--url", server.url],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=WITHIN_S,
        check=False,
    )
    os.close(writer)
    assert 1 == process.returncode
    assert process.stderr.endswith(
        b"stopped: 5000 events stored and 5000 not stored before line 10001; go on with --from-line 10001\n"
    )
    assert 1 == len(server.received)


def test_terminal_shows_the_progress(tmp_path: Path, server: Scripted) -> None:
    """What standard output gets is not mixed with it."""
    file = tmp_path / "events"
    file.write_bytes(b"\n".join([*numbered(3), b"[]"]))
    terminal, given = pty.openpty()
    try:
        process = subprocess.Popen(
            [*COMMAND, str(file), "--site", "demo", "--url", server.url],
            stdout=subprocess.PIPE,
            stderr=given,
            env=environment() | {"TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(given)
        output, _ = process.communicate(timeout=WITHIN_S)
        shown = b""
        try:
            while more := os.read(terminal, 65_536):
                shown += more
        except OSError:  # Linux: the other end was closed
            pass
    finally:
        os.close(terminal)
    text = shown.decode()
    assert (1, b"4: invalid: line is not one JSON object\n") == (process.returncode, output)
    assert "importing" in text
    assert "4 events, " in text
    assert "3 of 4 events stored" in text
