"""Signals that mean nothing to the collector: it ignores them, although by default they end a process."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.system.process import COMMAND, STOP_S, configure, environment, serving
from tests.system.test_workers import two_workers, workers

NUMBERS = (signal.SIGUSR1, signal.SIGUSR2)
"""Log rotation sends SIGUSR1 to any daemon. SIGUSR2 asks nginx and others to start a new binary."""


def ignored(pid: int) -> set[signal.Signals]:
    """The signals that the process ignores, according to the kernel."""
    (mask,) = [
        int(line.split()[1], 16)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigIgn:")
    ]
    return {number for number in signal.Signals if mask >> (number - 1) & 1}


def test_single_process_ignores_signals(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        for number in NUMBERS:
            process.send_signal(number)
            assert 201 == process.post().status
        assert set(NUMBERS) <= ignored(process.popen.pid)
        assert 0 == process.stop()
        assert 2 == len(process.rows())


def test_supervisor_and_workers_ignore_signals(tmp_path: Path) -> None:
    with two_workers(tmp_path) as process:
        before = workers(process)
        for number in NUMBERS:
            for pid in (process.popen.pid, *before.values()):
                os.kill(pid, number)
                assert set(NUMBERS) <= ignored(pid)
            assert 201 == process.post().status
        assert before == workers(process)
        assert 0 == process.metrics().value("collector_worker_restarts_total")
        assert 0 == process.stop()


@pytest.mark.parametrize("number", NUMBERS)
def test_signals_are_ignored_before_it_serves(tmp_path: Path, number: signal.Signals) -> None:
    """It is still reading its configuration from a pipe that the test holds open."""
    text = configure(tmp_path).read_bytes().replace(b"port = 0", b"port = -1")
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    popen = subprocess.Popen(
        [*COMMAND, "serve", "--config", str(pipe)], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
    )
    try:
        with pipe.open("wb") as config:  # waits for its reader
            popen.send_signal(number)
            config.write(text)
        _, err = popen.communicate(timeout=STOP_S)
        assert (2, True) == (popen.returncode, b"server.port: should be" in err), err
    finally:
        popen.kill()
        popen.wait()
