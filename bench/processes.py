"""What a process and its children have used, as Linux counts it.

CPU time is user plus system, over all threads of the process and of every process below it, in seconds; /proc has it
in ticks of 10 ms. A child that has ended and was waited for counts in its parent.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> Iterator[int]:
    """The process and everything below it that is alive."""
    yield pid
    try:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has ended meanwhile
        return
    for child in children:
        yield from family(child)


def cpu_s(pid: int) -> float:
    """CPU time of the process and all below it, so far."""
    return sum(_cpu_s(member) for member in family(pid))


def rss_bytes(pid: int) -> int:
    """Resident memory of the process and all below it; what they share is counted for each."""
    return sum(_rss_bytes(member) for member in family(pid))


def _cpu_s(pid: int) -> float:
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return 0.0


def parse_stat(text: str) -> float:
    """CPU seconds of a `/proc/<pid>/stat` (proc(5)), those of its ended children included."""
    # The name in parentheses is the program's own choice, and may hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
