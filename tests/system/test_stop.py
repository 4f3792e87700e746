"""Stop signals to the real process: a second signal, a repeat of the first, and a signal after the drain."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from collector.daemon.stop_signals import SAME_STOP_S
from tests.support import body
from tests.system import wire
from tests.system.process import (
    COMMAND,
    STOP_S,
    Process,
    environment,
    listening,
    serving,
    wait_until,
)

ROOT = Path(__file__).parents[2]
WORKERS = pytest.mark.parametrize("workers", [1, 2])
SLOW_TO_STOP = {"shutdown_timeout_s": 60, "body_timeout_s": 60}


def served_by(workers: int, **settings: float) -> dict[str, Any]:
    return {"port": 0, "workers": workers, **settings}


@contextmanager
def draining(process: Process, stop: Callable[[], object]) -> Iterator[None]:
    """The collector drains, and waits for a request whose body arrives only when the block ends."""
    address, data = urlsplit(process.url), body()
    with socket.create_connection((address.hostname, address.port), timeout=15) as connection:
        connection.sendall(wire.head("demo", len(data)) + data[:1])
        wait_until(lambda: process.metrics().value("collector_requests_in_flight") == 1, "the request is in flight")
        stop()
        process.logged("draining: 1 request in flight")
        yield
        with suppress(ConnectionError):  # the collector may have exited at once
            connection.sendall(data[1:])


@WORKERS
@pytest.mark.parametrize(
    ("first", "second", "after_s"),
    [
        (signal.SIGTERM, signal.SIGTERM, SAME_STOP_S),
        (signal.SIGINT, signal.SIGINT, SAME_STOP_S),
        (signal.SIGINT, signal.SIGTERM, 0),
        (signal.SIGTERM, signal.SIGINT, 0),
    ],
)
def test_second_signal_exits_at_once(
    tmp_path: Path, workers: int, first: signal.Signals, second: signal.Signals, after_s: float
) -> None:
    with serving(tmp_path, server=served_by(workers, **SLOW_TO_STOP)) as process:
        assert process.post().status == 201
        with draining(process, lambda: process.send_signal(first)):
            time.sleep(after_s)  # it has received the first signal, so this much passes on its own clock
            process.send_signal(second)
            assert process.exit_code(within_s=5) == 1
        assert "second signal: exiting at once; " in process.log()
    with serving(tmp_path, server=served_by(workers)) as process:
        assert process.stop() == 0
        assert 1 == len(process.rows())


@pytest.mark.parametrize(("durability", "fate", "kept"), [("memory", "lost", 0), ("write", "left in the journal", 1)])
def test_second_signal_logs_what_becomes_of_the_events(tmp_path: Path, durability: str, fate: str, kept: int) -> None:
    with serving(tmp_path, server=served_by(1, **SLOW_TO_STOP), storage={"durability": durability}) as process:
        assert process.post().status == 201
        with draining(process, lambda: process.send_signal(signal.SIGTERM)):
            process.send_signal(signal.SIGINT)
            assert process.exit_code(within_s=5) == 1
        assert f"second signal: exiting at once; 1 event {fate}" in process.log()
    with serving(tmp_path) as process:
        assert process.stop() == 0
        assert kept == len(process.rows())


@WORKERS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_repeated_signal_is_one_stop(tmp_path: Path, workers: int, number: signal.Signals) -> None:
    with serving(tmp_path, server=served_by(workers), storage={"durability": "memory"}) as process:
        assert process.post().status == 201
        with draining(process, lambda: process.send_signal(number)):
            process.send_signal(number)
        assert process.exit_code() == 0
        assert "second signal" not in process.log()
        assert 2 == len(process.rows())


@WORKERS
def test_repeated_signal_after_the_drain_changes_nothing(tmp_path: Path, workers: int) -> None:
    """All processes get it, as from a terminal. They end with their exit code and not by the signal."""
    with serving(tmp_path, server=served_by(workers)) as process:
        group = [process.popen.pid, *_children(process.popen.pid)]
        until = time.monotonic() + 0.8 * SAME_STOP_S  # a later signal is not a repeat, and may kill the process
        process.send_signal(signal.SIGTERM)
        process.logged("every acknowledged event is in a part")
        while process.popen.poll() is None and time.monotonic() < until:
            for pid in group:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            # A pause of 0.2 ms left a process that coverage measures with hundreds of nested handlers.
            time.sleep(0.002)
        assert process.exit_code() == 0, process.log()


@WORKERS
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_stop_of_the_process_group_of_make_run_loses_nothing(tmp_path: Path, workers: int) -> None:
    """The collector gets SIGTERM as a member of the group, and again from make, which then waits for it."""
    overrides = {
        "SERVER__PORT": "0",
        "ADMIN__PORT": "0",
        "SERVER__WORKERS": str(workers),
        "STORAGE__DATA_DIR": str(tmp_path / "data"),
        "STORAGE__DURABILITY": "memory",
        "STORAGE__FLUSH_INTERVAL_S": "600",
    }
    (tmp_path / "bin").mkdir()
    recorder = tmp_path / "bin" / "collector"
    # `exec`, as in the recipe: no shell between make and the collector may keep the signal.
    recorder.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    recorder.chmod(0o755)
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        make = subprocess.Popen(
            ["make", "-o", ".venv/run.done", "run", f"BIN={recorder.parent}"],
            cwd=ROOT,
            env=environment() | {f"COLLECTOR__{name}": value for name, value in overrides.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        url, admin = listening(make, log)
        process = Process(make, tmp_path, url, admin)
        for _ in range(5):
            assert process.post(body()).status == 201
        (collector,) = _children(make.pid)
        os.kill(make.pid, signal.SIGSTOP)  # otherwise the kernel may merge both signals into one
        with draining(process, lambda: os.killpg(make.pid, signal.SIGTERM)):
            os.kill(make.pid, signal.SIGCONT)
            wait_until(
                lambda: not _is_pending(make.pid, signal.SIGTERM), "make has received the signal and passed it on"
            )
        assert -signal.SIGTERM == make.wait(STOP_S), (
            "make waits for the collector, and then ends by the signal as it always does"
        )
        wait_until(lambda: not Path(f"/proc/{collector}").exists(), "the collector is gone")
        assert "second signal" not in process.log()
        assert "Error" not in process.log(), "make reports a recipe that fails"
        assert 6 == len(process.rows())
    finally:
        if make.poll() is None:
            os.killpg(make.pid, signal.SIGKILL)
        make.wait(STOP_S)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_pending(pid: int, number: signal.Signals) -> bool:
    (pending,) = re.findall(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(pending, 16) >> (number - 1) & 1)
