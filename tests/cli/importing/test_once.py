"""Whatever goes wrong between an import and a collector, every event is stored once."""

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.cli.importing.batches import Limits
from collector.cli.importing.run import Reading, Tally, send_all
from collector.cli.importing.sender import GaveUp, Preparer, Sender
from collector.cli.importing.source import Source
from tests.cli.importing.collector import FakeCollector, Fault, InstantClock

KINDS = {
    "good": b"good N",
    "bad": b"bad N",
    "larger than a batch": b"large N" + b"x" * 100,
    "array": b"[N]",
    "blank": b"",
}
LIMITS = Limits(events=6, size_bytes=60)


@given(
    kinds=st.lists(st.sampled_from([*["good"] * 5, *KINDS]), min_size=10, max_size=40),
    faults=st.lists(st.sampled_from([*[Fault.NONE] * 8, *Fault]), min_size=10, max_size=60),
    goes_on=st.lists(st.booleans(), max_size=20),
    bucket=st.sampled_from([1, 2, 3, 5, 6, 6, 6]),
    body_bytes=st.sampled_from([10, 40, 1_000, 1_000, 1_000]),
)
def test_every_event_is_stored_once_whatever_fails(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[str],
    faults: list[Fault],
    goes_on: list[bool],
    bucket: int,
    body_bytes: int,
) -> None:
    """After a stop, the next run goes on at the line that the stopped run named, or begins where that one began.

    If all go on, what the runs count and print adds up, too.
    """
    file = tmp_path_factory.getbasetemp() / "events"
    lines = [
        b"good 0",
        *(KINDS[kind].replace(b"N", b"%d" % number) for number, kind in enumerate(kinds, 2)),
    ]  # the first is no array
    file.write_bytes(b"\n".join(lines))
    collector = FakeCollector(faults, bucket, body_bytes)
    tallies = []
    goes_on_next = iter(goes_on)
    from_line = 1
    printed = io.StringIO()
    while True:
        tally = Tally(from_line)
        tallies.append(tally)
        try:
            with Source(str(file)) as source, no_reading_left(), redirect_stdout(printed):
                asyncio.run(import_from(source, from_line, tally, collector))
            break
        except (asyncio.CancelledError, GaveUp):
            from_line = tally.next_line if next(goes_on_next, True) else from_line
    good = [number for number, line in enumerate(lines, 1) if line.startswith(b"good")]
    others = [number for number, line in enumerate(lines, 1) if line.startswith((b"bad", b"large", b"["))]
    assert [lines[number - 1] for number in good] == collector.stored
    if False not in goes_on:
        assert len(good) == sum(tally.stored for tally in tallies)
        assert others == [int(line.partition(":")[0]) for line in printed.getvalue().splitlines()]


@contextmanager
def no_reading_left() -> Iterator[None]:
    """Wait at the end for the thread that reads ahead.

    A stopped run does not: its process ends. Here the next run opens the file, often with the same descriptor, and the
    thread would read lines of it.
    """
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if thread.name == "reading":
                thread.join(10)


async def import_from(source: Source, from_line: int, tally: Tally, collector: FakeCollector) -> None:
    preparer = Preparer("demo", use_gzip=False)
    sender = Sender(
        preparer.request,
        collector.post,
        InstantClock(),
        patience_s=600,
        jitter=lambda: 0.0,
        tell=lambda why: None,
    )
    await send_all(Reading(source, from_line, preparer, LIMITS), sender, tally, lambda read_bytes, events: None)
