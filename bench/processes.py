"""CPU time and memory of a process and its descendants, from Linux's /proc.

CPU time is user plus system time in seconds, over all threads of the process and its descendants. /proc reports ticks
of 10 ms. A child that was waited for counts towards its parent.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> Iterator[int]:
    """Yield the process and all its living descendants."""
    yield pid
    try:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # the process has ended
        return
    for child in children:
        yield from family(child)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of the process and its descendants so far."""
    return sum(_cpu_s(member) for member in family(pid))


def rss_bytes(pid: int) -> int:
    """Return the resident memory of the process and its descendants. Shared pages count once per process."""
    return sum(_rss_bytes(member) for member in family(pid))


def _cpu_s(pid: int) -> float:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return 0.0


def parse_stat(text: str) -> float:
    """Return the CPU seconds in the text of a `/proc/<pid>/stat` (proc(5)), including waited-for children."""
    # The program chooses its name, in parentheses, which can itself contain spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
