"""The verdict: what the durability survives and how long answers take, in words, from what was measured."""

from collector.cli.doctor.checks import Examined, milliseconds
from collector.journal.journal import GATHER_S

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
    lines.append(
        "To measure how many events a second this machine takes, run `python -m bench peak` in a clone of the source."
    )
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
