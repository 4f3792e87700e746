"""The verdict: what durability and what rate this machine holds, in words, from what was measured."""

from collector.cli.doctor.checks import Examined, milliseconds
from collector.daemon.serve import processes
from collector.journal.journal import GATHER_S, WAITING_EVENT_BYTES, WAITING_MAX_BYTES

# What an event costs in all, for each microsecond of what is measured here: `python -m bench peak` had 69 us beside a
# doctor's 30 and 31 (2026-11-25, 2-core AMD EPYC). The rest is sockets, the event loop, the hop to the journal's
# thread, the syncs, and what a flush does beside them.
WHOLE = 2.3

_SURVIVES = {
    "fsync": "a power cut, if the disk keeps what it says it wrote",
    "write": "the death of the process, but not a power cut",
    "memory": "an orderly stop and nothing else",
}


def verdict(found: Examined) -> list[str]:
    """Sentences, one a line."""
    durability = found.config.storage.durability
    lines = [f'With durability "{durability}" an acknowledged event survives {_SURVIVES[durability]}.']
    if not found.disk.error:
        lines.append(_answer_time(found))
    lines += _rate(found)
    return lines


def _answer_time(found: Examined) -> str:
    median, p99 = found.disk.commit_at(0.5), found.disk.commit_at(0.99)
    with_sync = (
        f"this disk commits a group in {milliseconds(median)} at the median and {milliseconds(p99)} at p99, and a "
        f"group gathers for {milliseconds(GATHER_S)}: an answer takes about {milliseconds(GATHER_S + median)}, seldom "
        f"more than {milliseconds(GATHER_S + 2 * p99)}"
    )
    match found.config.storage.durability:
        case "fsync":
            return f"There {with_sync}."
        case "write":
            return f'There an answer takes about {milliseconds(GATHER_S)}. With "fsync" {with_sync}.'
        case _:
            return f'There an answer waits for nothing. With "fsync" {with_sync}.'


def _rate(found: Examined) -> list[str]:
    cpu, workers = found.cpu, processes(found.config.server.workers)
    measured_s = cpu.request_s + cpu.row_s
    of_core = 1 / (WHOLE * measured_s)
    lines = [
        f"One core takes {measured_s * 1e6:.0f} us for the request, the record and the row of an event (measured in "
        f"this process, without sockets, event loop and syncs); the whole is some {WHOLE:g} times that, so about "
        f"{_rounded(of_core)} events a second a core."
    ]
    used = min(workers, found.machine.cores)
    holds = used * of_core
    if not found.disk.error:
        of_disk = disk_rate(found)
        lines.append(f"The disk takes up to {_rounded(of_disk)} events a second of {cpu.record_bytes} bytes.")
        holds = min(holds, of_disk)
    lines.append(
        f"So reckon with {_rounded(holds)} events a second for {workers} worker{'s' * (workers > 1)}, "
        f"{_rounded(holds * 60)} a minute, where nothing else wants these cores; half of that leaves room for a rush."
    )
    return lines


def disk_rate(found: Examined) -> float:
    """Events a second, by what can be written, and by what may wait while a group is committed."""
    disk, cpu = found.disk, found.cpu
    written = disk.bytes_per_s / (cpu.record_bytes + cpu.part_bytes)
    if found.config.storage.durability != "fsync":
        return written
    together = WAITING_MAX_BYTES / (cpu.record_bytes + WAITING_EVENT_BYTES)
    return min(written, together / (GATHER_S + disk.commit_at(0.99)))


def _rounded(number: float) -> str:
    """With two digits that count: it is no better known."""
    return f"{float(f'{number:.2g}'):,.0f}"
