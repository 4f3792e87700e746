"""Batches after a crash: each is there whole or not at all, whichever blocks of it reached the disk."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.events import Event
from collector.ingest.pipeline import replay
from collector.journal.record import (
    HEADER_BYTES,
    EncodedBatch,
    Header,
    Record,
    crc_seed,
    encode,
    encode_frame,
    encode_header,
    scan,
)
from collector.journal.segment import SegmentFile, SegmentStore
from collector.publish.local import Folders
from tests.crash.conftest import LONG
from tests.crash.test_torn import ID, Bench, bench  # noqa: F401 - a fixture
from tests.support import NOON_US, event

SEED = crc_seed(ID)
BLOCK_BYTES = 32  # smaller than a record, so that blocks of one record are lost while others are kept


def stored(number: int) -> Event:
    data = json.dumps(event(session_id=f"s-{number}")).encode()
    return replay(Record(0, 0, "a", NOON_US + number, None, None, data))[0]


FIRST, LAST = [stored(0)], [stored(9)]
BATCH = [stored(number) for number in (1, 2, 3)]


def written(batch: list[Event], answer: bytes = b"answer") -> bytes:
    records = [encode([each], SEED) for each in batch]
    return encode_frame(EncodedBatch(b"k", answer, len(batch), records), SEED) + b"".join(records)


START = encode_header(Header(ID, by_site=True)) + encode(FIRST, SEED)


def rows(*groups: list[Event]) -> list[object]:
    return [each.row for group in groups for each in group]


def test_batch_cut_at_any_byte_is_not_published_at_all_and_a_copy_of_it_is_kept(bench: Bench) -> None:  # noqa: F811
    data = START + written(BATCH)
    for length in range(len(START), len(data)):
        assert rows(FIRST) == bench.read(data[:length]), f"cut to {length} bytes"
        assert data[len(START) : length] == bench.kept().get("torn", b""), f"cut to {length} bytes"
    assert (rows(FIRST, BATCH), {}) == (bench.read(data), bench.kept())


def test_batch_in_front_of_another_commit_loses_only_what_is_damaged(bench: Bench) -> None:  # noqa: F811
    """It was acknowledged, so its intact records are published, whatever else of it is damaged."""
    batch, record_bytes = written(BATCH), len(encode(BATCH[:1], SEED))
    frame_bytes = len(batch) - 3 * record_bytes
    for place in range(len(batch)):
        damaged = batch[:place] + bytes([batch[place] ^ 1 << random.randrange(8)]) + batch[place + 1 :]
        hit = (place - frame_bytes) // record_bytes if place >= frame_bytes else None
        kept = [each for number, each in enumerate(BATCH) if number != hit]
        assert rows(FIRST, kept, LAST) == bench.read(START + damaged + encode(LAST, SEED)), f"byte {place}"
        assert ["damaged"] == list(bench.kept()), f"byte {place}"


class Cut:
    """A moment at which the power may be cut, with what is on the disk then for sure, and what may be."""

    def __init__(self, synced: bytes, cached: bytes, acknowledged: set[int]) -> None:
        self.synced = synced
        self.cached = cached
        self.acknowledged = acknowledged  # commits

    def outcomes(self, chance: random.Random) -> Iterator[bytes]:
        """What may be on the disk afterwards: any blocks of the rest, with zeros between them, and any size."""
        rest = self.cached[len(self.synced) :]
        blocks = [rest[at : at + BLOCK_BYTES] for at in range(0, len(rest), BLOCK_BYTES)]
        yield self.synced
        yield self.cached
        for _ in range(1_000 if LONG else 100):
            share = chance.random()
            some = b"".join(block if chance.random() < share else bytes(len(block)) for block in blocks)
            yield self.synced + some[: chance.choice((len(some), chance.randint(0, len(some))))]


@pytest.fixture
def cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Cut]]:
    """Commit an event, a batch, and an event with another batch. Returns the moments before and after each call."""

    def commit_all(durability: str) -> list[Cut]:
        store = SegmentStore(Folders(tmp_path), "0", by_site=True, durability=durability, new_id=lambda: ID)
        file = store.create()
        found, acknowledged, synced = list[Cut](), set[int](), file.path.read_bytes()

        def note(call: Callable[..., int | None]) -> Callable[..., int | None]:
            def noted(*arguments: object) -> int | None:
                nonlocal synced
                done = call(*arguments)
                found.append(Cut(synced, file.path.read_bytes(), set(acknowledged)))
                if call is not write:
                    synced = file.path.read_bytes()
                    found.append(Cut(synced, synced, set(acknowledged)))
                return done

            return noted

        write, sync = os.write, os.fdatasync
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", note(write))
            patch.setattr(os, "fdatasync", note(sync))
            for number, (events, batch) in enumerate(COMMITS):
                _commit(file, events, batch)
                acknowledged.add(number)
        file.close()
        return found

    return commit_all


COMMITS = [
    ([stored(0)], []),
    ([], [stored(number) for number in range(10, 16)]),
    ([stored(1), stored(2)], [stored(number) for number in range(20, 26)]),
    ([stored(3)], []),
]


def _commit(file: SegmentFile, events: list[Event], batch: list[Event]) -> None:
    pieces = [file.encode([each]) for each in batch]
    file.commit(file.encode(events), EncodedBatch(b"k", 100 * b"x", len(batch), pieces) if batch else None)


def problem(cut: Cut, data: bytes, path: Path) -> str | None:
    """Return what is wrong with the segment after a power cut, or None."""
    path.write_bytes(data)
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        found = {each.body for each in scan(file, ID) if isinstance(each, Record)}
    for number, (events, batch) in enumerate(COMMITS):
        there = [each.body in found for each in batch]
        if number in cut.acknowledged and not (all(there) and all(each.body in found for each in events)):
            return f"commit {number} was acknowledged, and is not all there"
        if any(there) and not all(there):
            return f"of the batch in commit {number}, {sum(there)} of {len(batch)} events are there"
    return None


def first_problem(cuts: list[Cut], path: Path) -> str | None:
    chance = random.Random(1)
    found = (problem(cut, data, path) for cut in cuts for data in cut.outcomes(chance))
    return next((each for each in found if each is not None), None)


def test_power_cut_leaves_a_batch_whole_or_not_at_all(cuts: Callable[[str], list[Cut]], tmp_path: Path) -> None:
    assert first_problem(cuts("fsync"), tmp_path / "after") is None


def test_suite_detects_a_frame_that_is_not_synced_before_its_records(
    cuts: Callable[[str], list[Cut]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then records of the batch can be on the disk without it."""
    sync, calls = SegmentFile._sync, 0

    def every_other(self: SegmentFile) -> None:
        """Leave out the first sync of a commit with a batch: the second and fourth of all."""
        nonlocal calls
        calls += 1
        if calls not in (2, 4):
            sync(self)

    monkeypatch.setattr(SegmentFile, "_sync", every_other)
    assert "events are there" in (first_problem(cuts("fsync"), tmp_path / "after") or "")


def test_kill_leaves_a_batch_whole_or_not_at_all_without_any_sync(
    cuts: Callable[[str], list[Cut]], tmp_path: Path
) -> None:
    """With durability `write`: what was written survives a kill, to the last byte."""
    before = 0
    for cut in cuts("write"):
        assert problem(cut, cut.cached, tmp_path / "after") is None
        for length in range(before, len(cut.cached)):
            assert problem(Cut(b"", b"", set()), cut.cached[:length], tmp_path / "after") is None
        before = len(cut.cached)
