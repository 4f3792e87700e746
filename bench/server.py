"""A server under test: a real process, pinned to its cores and measured until it exits."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.processes import cpu_s, family, rss_bytes

ROOT = Path(__file__).parent.parent
READY_S = 60.0  # the configuration of 10,000 sites takes seconds to validate
STOP_S = 900.0  # flushing a segment into 10,000 parts takes 40 s
POLL_S = 0.02
RSS_EVERY_S = 0.25


class NoResult(Exception):
    """A run without a valid result, such as a lost event or a server that did not start. The message says why."""


def pinned(command: Sequence[str], cores: str | None) -> list[str]:
    """Return the command pinned to cores, in the syntax of `taskset -c`; None leaves it unpinned."""
    return list(command) if cores is None else ["taskset", "-c", cores, *command]


def environment(root: Path = ROOT) -> dict[str, str]:
    """Return this environment, with PYTHONPATH set so that any interpreter imports that checkout's collector."""
    return os.environ | {"PYTHONPATH": str(root)}


@dataclass(slots=True)
class Server:
    """A server process, running or ended."""

    popen: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    ended_cpu_s: float | None = None

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cpu_s(self) -> float:
        """Return the user and system seconds of all its processes: so far, or in total once it has ended."""
        return cpu_s(self.pid) if self.ended_cpu_s is None else self.ended_cpu_s

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait, and return the exit code. Raises NoResult if the process does not exit."""
        self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until the process exits, and return the exit code. Raises NoResult if it takes too long."""
        until = time.monotonic() + STOP_S
        before = 0.0
        while True:
            before = max(before, cpu_s(self.pid))
            # Popen.wait does not return the resource usage; wait4 does.
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                raise NoResult(f"{self.popen.args!r} did not end within {STOP_S:g} s")
            time.sleep(POLL_S)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        # The usage lacks children that their parent did not wait for; `before` includes them.
        self.ended_cpu_s = max(before, usage.ru_utime + usage.ru_stime)
        return self.popen.returncode

    def tail(self) -> str:
        """Return the last 2,000 characters of the log."""
        return self.log.read_text(errors="replace")[-2_000:]


@contextmanager
def started(
    command: Sequence[str], folder: Path, *, cores: str | None = None, env: dict[str, str] | None = None
) -> Iterator[Server]:
    """Start a process that logs to `folder/log`; it and its descendants are killed when the block ends."""
    log = folder / "log"
    with log.open("wb") as output:
        popen = subprocess.Popen(
            pinned(command, cores), cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    server = Server(popen, log)
    try:
        yield server
    finally:
        if popen.returncode is None:
            for member in list(family(popen.pid)):  # Granian's worker outlives its parent
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            popen.wait()


class MemoryWatch:
    """Samples the memory of a process and its descendants in a thread, for the duration of the block."""

    def __init__(self, pid: int) -> None:
        self.samples: list[tuple[float, int]] = []  # seconds since the start, bytes
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_bytes(self) -> int:
        return max((size for _, size in self.samples), default=0)

    def _run(self) -> None:
        started_s = time.monotonic()
        while True:
            self.samples.append((time.monotonic() - started_s, rss_bytes(self._pid)))
            if self._stop.wait(RSS_EVERY_S):
                return
