"""A server under test: a real process, ready, pinned to its cores, and measured until it has ended."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.processes import cpu_s, rss_bytes

ROOT = Path(__file__).parent.parent
READY_S = 60.0  # 10,000 sites take some seconds to check
STOP_S = 900.0  # 10,000 parts take 40 s a segment
POLL_S = 0.02
RSS_EVERY_S = 0.25


class NoResult(Exception):
    """A run that proves nothing: an event was lost, a server did not start. The message says which."""


def pinned(command: Sequence[str], cores: str | None) -> list[str]:
    """The command, kept on those cores (as `taskset -c` lists them) or free to roam."""
    return list(command) if cores is None else ["taskset", "-c", cores, *command]


def environment(root: Path = ROOT) -> dict[str, str]:
    """This one, with the collector of that checkout, whatever interpreter runs it."""
    return os.environ | {"PYTHONPATH": str(root)}


@dataclass(slots=True)
class Server:
    """A process that serves, or has served."""

    popen: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    ended_cpu_s: float | None = None

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cpu_s(self) -> float:
        """User and system time of all its processes so far, or in all once it has ended."""
        return cpu_s(self.pid) if self.ended_cpu_s is None else self.ended_cpu_s

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait. The exit code. Raises NoResult when it does not end."""
        before = cpu_s(self.pid)
        self.popen.send_signal(number)
        until = time.monotonic() + STOP_S
        while True:
            # Not Popen.wait: only wait4 tells what it has used.
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                self.popen.kill()
                raise NoResult(f"{self.popen.args!r} did not end within {STOP_S:g} s")
            time.sleep(POLL_S)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        # A parent that does not wait for its children keeps their time out of its own.
        self.ended_cpu_s = max(before, usage.ru_utime + usage.ru_stime)
        return self.popen.returncode

    def tail(self) -> str:
        """The end of its log, for a person."""
        return self.log.read_text(errors="replace")[-2_000:]


@contextmanager
def started(
    command: Sequence[str], folder: Path, *, cores: str | None = None, env: dict[str, str] | None = None
) -> Iterator[Server]:
    """The process, its output in `folder/log`; gone when the block is left, however it is left."""
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
            popen.kill()
            popen.wait()


class MemoryWatch:
    """Samples the memory of a process and all below it, in a thread, while the block lasts."""

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
