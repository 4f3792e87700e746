"""What a collector's resident memory holds, idle, at its peak and after a load: `python -m bench.resident`.

Linux only: the figures are from /proc/<pid>/smaps. Files are the pages of programs and shared libraries, most of which
processes share. The heap is what malloc manages: large Python objects, and what describes Arrow's columns. The maps are
the rest: small Python objects, and the values of columns.
"""

import argparse
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.requests import COUNT, write_requests
from bench.server import RSS_EVERY_S
from bench.subject import Setup, collecting, with_binary
from bench.wrk import run_wrk

KINDS = ("files", "heap", "maps")
FLUSH_INTERVAL_S = 20
FLUSH_S = 5  # the last flush, and the second after which its allocator returns memory

_HEAD = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)\n")


def resident(smaps: str) -> Counter[str]:
    """Return the resident bytes of each kind in the text of a `/proc/<pid>/smaps` (proc(5))."""
    found: Counter[str] = Counter()
    kind = ""
    for line in smaps.splitlines(keepends=True):
        if head := _HEAD.fullmatch(line):
            kind = "files" if head[1].startswith("/") else "heap" if head[1] == "[heap]" else "maps"
        elif line.startswith("Rss:"):
            found[kind] += int(line.split()[1]) * 1024
    return found


def of_process(pid: int) -> Counter[str]:
    return resident(Path(f"/proc/{pid}/smaps").read_text())


class Highest:
    """Keeps the sample with the most memory, of those taken during the block."""

    def __init__(self, pid: int) -> None:
        self.sample = of_process(pid)
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Highest":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(RSS_EVERY_S):
            self.sample = max(self.sample, of_process(self._pid), key=Counter.total)


def measure(setup: Setup, seconds: float, connections: int, folder: Path) -> dict[str, Counter[str]]:
    """Return the memory of each phase. The load is a closed loop."""
    requests = folder / "requests"
    write_requests(requests, COUNT, setup.sites, 0, 1)
    with collecting(folder, setup) as collector:
        pid = collector.server.pid
        phases = {"no event yet": of_process(pid)}
        with Highest(pid) as highest:
            run = run_wrk(collector.url, requests, seconds, connections=connections, threads=1, start=0, cores="1")
        phases[f"peak of {seconds:g} s, {run.per_second:,.0f} events/s"] = highest.sample
        time.sleep(FLUSH_INTERVAL_S + FLUSH_S)
        phases["at rest after the last flush"] = of_process(pid)
        collector.finish(run.acknowledged)
    return phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="default: %(default)s")
    parser.add_argument("--connections", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--sites", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--python", default=sys.executable, metavar="PATH", help="the collector's Python")
    parser.add_argument("--binary", type=Path, metavar="PATH", help="measure this binary instead")
    arguments = parser.parse_args()
    settings = {"storage": {"flush_interval_s": FLUSH_INTERVAL_S}}
    setup = Setup(arguments.sites, settings, arguments.python, cores="0")
    if arguments.binary:
        setup = with_binary(setup, arguments.binary)
    table = Table("MB", "all", *KINDS, box=box.MARKDOWN)
    with tempfile.TemporaryDirectory() as folder:
        phases = measure(setup, arguments.seconds, arguments.connections, Path(folder))
    for phase, found in phases.items():
        table.add_row(
            phase, *(f"{size_bytes / 1e6:.0f}" for size_bytes in (found.total(), *(found[kind] for kind in KINDS)))
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
