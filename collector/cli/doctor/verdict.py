"""The verdict: sentences on what the durability setting survives and how long responses take, from the measurements."""

from collector.cli.doctor.checks import Examined, milliseconds
from collector.journal.journal import GATHER_S

_SURVIVES = {
    "fsync": "a power cut, if the disk keeps what it reports as written",
    "write": "a crash or kill of the process, but not a power cut",
    "memory": "an orderly stop and nothing else",
}


def verdict(found: Examined) -> list[str]:
    """The sentences, one per line."""
    durability = found.config.storage.durability
    lines = [f'With durability "{durability}" an acknowledged event survives {_SURVIVES[durability]}.']
    if not found.disk.error:
        lines.append(_response_time(found))
    lines.append(
        "To measure how many events a second this machine accepts, run `python -m bench peak` in a clone of the source."
    )
    return lines


def _response_time(found: Examined) -> str:
    median, p99 = found.disk.commit_at(0.5), found.disk.commit_at(0.99)
    with_sync = (
        f"a response takes about {milliseconds(GATHER_S + median)}, rarely more than "
        f"{milliseconds(GATHER_S + 2 * p99)}: a group of events gathers for {milliseconds(GATHER_S)}, and this disk "
        f"commits it in {milliseconds(median)} (median) or {milliseconds(p99)} (p99)"
    )
    match found.config.storage.durability:
        case "fsync":
            return f"On this disk {with_sync}."
        case "write":
            return f'A response takes about {milliseconds(GATHER_S)}. With "fsync", {with_sync}.'
        case _:
            return f'A response does not wait for the disk. With "fsync", {with_sync}.'
