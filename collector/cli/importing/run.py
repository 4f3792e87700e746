"""One run through the file: while a batch is sent, a thread reads and packs the next one."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from collector.cli.importing.batches import Batch, Limits, NotStored, batches, is_array
from collector.cli.importing.progress import Advance
from collector.cli.importing.sender import Preparer, Request, Sender
from collector.cli.importing.source import Source, Unreadable
from collector.cli.ndjson import Line
from collector.daemon.resources import StartError
from collector.log.setup import escape
from collector.threads import CallThread
from collector.wording import count


@dataclass(slots=True)
class Tally:
    """What became of the batches that are done."""

    next_line: int
    """Every event before this line was judged. Those of a batch in progress may be stored, too; they are not counted
    here but by the run that goes on, so that the counts of all runs add up."""
    stored: int = 0
    not_stored: int = 0

    def add(self, batch: Batch, not_stored: list[NotStored]) -> None:
        dropped = len({number for number, _ in not_stored})
        self.stored += len(batch.lines) + len(batch.not_sent) - dropped
        self.not_stored += dropped
        self.next_line = batch.next_line

    @property
    def events(self) -> int:
        return self.stored + self.not_stored

    def finished(self) -> str:
        return f"{self.stored} of {count(self.events, 'event')} stored"

    def stopped(self) -> str:
        return (
            f"stopped: {count(self.stored, 'event')} stored and {self.not_stored} not stored before line "
            f"{self.next_line}; go on with --from-line {self.next_line}"
        )


@dataclass(frozen=True, slots=True)
class Read:
    """What one call of `Reading.next` read."""

    batch: Batch
    request: Request | None
    """Ready to send. None if the batch has no lines to send."""
    read_bytes: int
    """Bytes of the file read so far, as they are on disk: packed, if it is gzip. They end up to 256 KiB after the
    batch, because the file is read in large pieces."""


class Reading:
    """Reads the file batch by batch, from a line on."""

    def __init__(self, source: Source, from_line: int, preparer: Preparer, limits: Limits) -> None:
        self._source = source
        self._preparer = preparer
        lines = _ndjson(source, limits.line_bytes)
        self._batches = batches((line for line in lines if line.number >= from_line), limits)

    def next(self) -> Read | Unreadable | StartError | None:
        """Read and pack a batch. Blocks. None is the end of the file.

        Unreadable comes after all that could be read, StartError instead of all. They are returned, not raised: after a
        stop nobody asks for this result, and asyncio would log an exception that nobody asked for.
        """
        try:
            batch = next(self._batches, None)
        except (Unreadable, StartError) as exc:
            return exc
        if batch is None:
            return None
        request = self._preparer.request(batch.lines) if batch.lines else None
        return Read(batch, request, self._source.read_bytes)


async def send_all(reading: Reading, sender: Sender, tally: Tally, advance: Advance) -> None:
    """Send all batches, and print the lines that were not stored. Raises GaveUp, Unreadable, StartError.

    It can be cancelled at any time: `tally` has the batches that are done.
    """
    thread = CallThread("reading")
    upcoming = thread.call(reading.next)
    try:
        while (read := await upcoming) is not None:
            if not isinstance(read, Read):
                raise read
            upcoming = thread.call(reading.next)
            refused = [] if read.request is None else await sender.send(read.request)
            not_stored = sorted([*refused, *read.batch.not_sent], key=lambda line: line.number)
            tally.add(read.batch, not_stored)
            advance(read.read_bytes, tally.events)
            _print(not_stored)
    finally:
        upcoming.cancel()  # the thread may read for ever; nobody waits for it
        thread.stop()


def _print(not_stored: list[NotStored]) -> None:
    for number, why in not_stored:
        print(f"{number}: {escape(why)}")
    if not_stored:
        sys.stdout.flush()  # a later run does not print these lines again


def _ndjson(source: Source, largest_bytes: int) -> Iterator[Line]:
    """The lines of the file. Raises StartError if its first line cannot be read, or begins a JSON array."""
    lines = source.lines(largest_bytes)
    try:
        first = next(lines, None)
    except Unreadable as exc:
        raise StartError(str(exc)) from None
    if first is None:
        return
    if is_array(first.body):
        raise StartError(
            f"{source.name}: is a JSON array, but should have one JSON object per line; `jq -c '.[]' FILE` converts it"
        )
    yield first
    yield from lines
