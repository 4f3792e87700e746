"""Batches: the lines of a file, cut at the same places in every run that starts at the same line.

So a batch that is sent again, by this run or a later one, has the same Idempotency-Key, and the collector stores it
once. A key is a digest of the site, the number of the first line, and the lines.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from collector.cli.importing.source import Unreadable
from collector.cli.ndjson import Line
from collector.events import Reason
from collector.ingest.schema import UTF8_BOM


class NotStored(NamedTuple):
    """A line that was not stored, and why: "reason: message"."""

    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Limits:
    """The size of a batch: events, and bytes including line ends."""

    events: int = 10_000
    # The collector's limit is 4 MiB. The margin is for what a collector of another version may count differently.
    size_bytes: int = 4_194_304 - 65_536

    @property
    def line_bytes(self) -> int:
        """The longest line that can be sent, without its end."""
        return self.size_bytes - 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive lines of the file."""

    first: int
    """The number of its first line."""
    next_line: int
    """The number of the line after its last one."""
    lines: tuple[Line, ...]
    """The lines to send. It may be empty."""
    not_sent: tuple[NotStored, ...]
    """Lines that the collector would not take in any batch."""


def batches(lines: Iterable[Line], limits: Limits) -> Iterator[Batch]:
    """The batches of these lines. Raises what `lines` raises, after the batch of the lines before."""
    sent: list[Line] = []
    not_sent: list[NotStored] = []
    size_bytes = 0
    try:
        for line in lines:
            why = _unsendable(line.body, limits)
            added_bytes = 0 if why else len(line.body) + 1
            if len(sent) + len(not_sent) == limits.events or size_bytes + added_bytes > limits.size_bytes:
                yield _batch(sent, not_sent)
                sent, not_sent, size_bytes = [], [], 0
            size_bytes += added_bytes
            if why:
                not_sent.append(NotStored(line.number, why))
            else:
                sent.append(line)
    except Unreadable:
        if sent or not_sent:
            yield _batch(sent, not_sent)
        raise
    if sent or not_sent:
        yield _batch(sent, not_sent)


def is_array(body: bytes) -> bool:
    """Whether this is the start of a JSON array."""
    return body.removeprefix(UTF8_BOM).lstrip().startswith(b"[")


def body_of(lines: Sequence[Line]) -> bytes:
    """The request's body: newline-delimited JSON."""
    return b"".join(part for line in lines for part in (line.body, b"\n"))


def key_of(site_id: str, lines: Sequence[Line], body: bytes) -> str:
    """The Idempotency-Key of these lines, whose body is `body`: 32 hex digits."""
    digest = hashlib.blake2b(f"{site_id}\n{lines[0].number}\n".encode(), digest_size=16)
    digest.update(body)
    return digest.hexdigest()


def _unsendable(body: bytes, limits: Limits) -> str | None:
    if len(body) > limits.line_bytes:
        return (
            f"{Reason.TOO_LARGE.value}: line is longer than {limits.line_bytes} bytes, the most that a batch can have"
        )
    # As the first line of a batch, one would make the whole batch a JSON array, and the other would not be counted.
    if is_array(body) or not body.removeprefix(UTF8_BOM).strip():
        return f"{Reason.INVALID.value}: line is not one JSON object"
    return None


def _batch(sent: list[Line], not_sent: list[NotStored]) -> Batch:
    numbers = [part[index].number for part in (sent, not_sent) if part for index in (0, -1)]
    return Batch(min(numbers), max(numbers) + 1, tuple(sent), tuple(not_sent))
