"""The flush of a segment: from memory or from its file, retried, and with other files in its way."""

import os
import shutil
from collections.abc import Callable, Iterator
from errno import EIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from collector.clock import US_PER_DAY
from collector.events import Event
from collector.ingest.pipeline import replay
from collector.journal.buffer import Buffer
from collector.journal.flush.quarantine import Quarantine
from collector.journal.flush.salvage import BLOCK_BYTES
from collector.journal.flush.segment_flush import FAILED_READS, SegmentFlush
from collector.journal.record import HEADER_BYTES, Batch, Damage, EncodedBatch, Record, scan
from collector.journal.segment import Segment, SegmentStore
from collector.metrics import Metrics
from collector.parts.writer import PartConflict, PartWriter
from collector.publish.local import Folders
from tests.support import NOON_US, body, read_rows


def stored(site_id: str, number: int, data: bytes | None = None) -> Event:
    """An accepted event."""
    data = body(session_id=f"s-{number}") if data is None else data
    return replay(Record(0, 0, site_id, NOON_US + number, None, "u", data))[0]


EVENTS = [stored("a", 1), stored("b", 2), stored("a", 3), stored("b", US_PER_DAY)]


class Bench:
    """The flush of a data_dir, with the stages around it."""

    def __init__(self, data_dir: Path, *, by_site: bool = True) -> None:
        folders = Folders(data_dir)
        self.data_dir = data_dir
        self.metrics = Metrics()
        self.store = SegmentStore(folders, "0", by_site=by_site, durability="fsync")
        self.writer = PartWriter(folders, "0", compression="zstd")
        self.writer.prepare()
        self.answers: list[tuple[bytes, bytes]] = []
        self.remember: Callable[[list[tuple[bytes, bytes]]], None] = self.answers.extend
        quarantine = Quarantine(folders, "0", self.metrics)
        self.flush = SegmentFlush(self.store, self.writer, quarantine, replay, lambda each: self.remember(each))

    def sealed(self, events: list[Event] = EVENTS, *, in_memory: bool = True) -> Segment:
        """A sealed segment of these events."""
        file = self.store.create()
        file.commit(file.encode(events))
        file.seal()
        buffer = Buffer(by_site=self.store.by_site)
        for each in events:
            buffer.append(each)
        rows_of, size_bytes = buffer.rows_of, buffer.size_bytes
        return Segment(file.id, file.path, self.store.by_site, size_bytes, rows_of, buffer if in_memory else None)

    def with_batches(self, *batches: tuple[bytes, list[Event]], left_over: bool = True) -> Segment:
        """A segment on disk of batches, each with its key."""
        file = self.store.create()
        for key, events in batches:
            pieces = [file.encode([each]) for each in events]
            file.commit(b"", EncodedBatch(key, b"answer to " + key, len(events), pieces))
        file.seal()
        size_bytes = file.path.stat().st_size
        return Segment(file.id, file.path, self.store.by_site, size_bytes, {}, None, left_over=left_over)

    def parts(self) -> list[Path]:
        return sorted((self.data_dir / "events").rglob("*.parquet"))

    def quarantined(self) -> dict[str, bytes]:
        return {path.suffix[1:]: path.read_bytes() for path in (self.data_dir / "quarantine").glob("*")}

    def count(self, kind: str) -> float | None:
        return self.metrics.registry.get_sample_value("collector_quarantined_total", {"kind": kind})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("in_memory", [True, False], ids=["from memory", "from its file"])
def test_segment_becomes_one_part_per_site_and_day_and_its_file_is_deleted(bench: Bench, in_memory: bool) -> None:
    segment = bench.sealed(in_memory=in_memory)
    parts = bench.flush(segment)
    assert [2, 1, 1] == [part.rows for part in parts]
    assert bench.parts() == sorted(part.path for part in parts)
    assert {segment.id} == {path.stem for path in bench.parts()}
    assert [each.row[2] for each in EVENTS] == [row["session_id"] for row in read_rows(bench.data_dir / "events")]
    assert [] == list((bench.data_dir / "journal").rglob("*.segment"))


def test_rows_from_memory_and_from_the_file_are_equal(tmp_path: Path) -> None:
    rows = []
    for in_memory in (True, False):
        bench = Bench(tmp_path / str(in_memory))
        bench.flush(bench.sealed(in_memory=in_memory))
        rows.append(read_rows(bench.data_dir / "events"))
    assert rows[0] == rows[1]


def test_failed_flush_keeps_the_file_and_the_next_finishes_from_it(bench: Bench) -> None:
    segment = bench.sealed()
    in_the_way = bench.data_dir / "events" / "site=a"
    in_the_way.touch()
    with pytest.raises(OSError, match="site=a"):
        bench.flush(segment)
    assert segment.path is not None
    assert segment.path.exists()
    kept = {path: path.stat().st_ino for path in bench.parts()}
    assert 2 == len(kept)
    in_the_way.unlink()
    segment.buffer = None
    bench.flush(segment)
    assert kept.items() <= {path: path.stat().st_ino for path in bench.parts()}.items()
    assert 4 == len(read_rows(bench.data_dir / "events"))
    assert not segment.path.exists()


def test_layout_of_a_segment_outlives_a_change_of_the_setting(tmp_path: Path) -> None:
    """Otherwise events published before a crash would be published again under another name."""
    before = Bench(tmp_path, by_site=True)
    segment = before.sealed()
    assert segment.path is not None
    aside = shutil.copy(segment.path, tmp_path / "aside")
    before.flush(segment)
    shutil.copy(aside, segment.path)
    after = Bench(tmp_path, by_site=False)
    (left,) = after.store.left_over()
    after.flush(left)
    assert 4 == len(read_rows(tmp_path / "events"))


@pytest.mark.parametrize("what", ["segment", "torn"])
def test_quarantine_makes_a_deleted_staging_folder_again(bench: Bench, what: str) -> None:
    segment = bench.sealed(in_memory=False)
    assert segment.path is not None
    if what == "torn":
        with segment.path.open("ab") as file:
            file.write(b"torn")
    else:
        taken = bench.data_dir / "events" / "site=a" / "date=2026-05-28" / f"{segment.id}.parquet"
        taken.parent.mkdir(parents=True)
        taken.write_bytes(b"another file")
    shutil.rmtree(bench.writer.staging)
    bench.flush(segment)
    assert [what] == list(bench.quarantined())


def test_rows_by_site_are_known_again_after_a_segment_was_read_back(bench: Bench) -> None:
    """While a segment waits on disk, only its file has them."""
    segment = bench.sealed()
    counted = dict(segment.rows_of)
    segment.to_disk()
    assert ({}, 4) == (segment.rows_of, segment.rows)
    bench.flush(segment)
    assert counted == segment.rows_of


@pytest.mark.parametrize("taken_by", ["fewer rows", "another segment", "garbage", "nothing"])
def test_segment_goes_to_quarantine_if_another_file_has_a_parts_name(bench: Bench, taken_by: str) -> None:
    """Its other parts are published, the other file stays untouched, and the journal is not blocked forever."""
    first = bench.sealed(EVENTS[:1])
    bench.flush(first)
    (path,) = bench.parts()
    segment = bench.sealed()
    taken = path.with_name(f"{segment.id}.parquet")
    if taken_by == "fewer rows":
        pq.write_table(pq.read_table(path).replace_schema_metadata({"collector.segment": segment.id}), taken)
    else:
        taken.write_bytes(
            {"another segment": path.read_bytes(), "garbage": b"PAR1 it is not", "nothing": b""}[taken_by]
        )
    before = taken.read_bytes()
    assert segment.path is not None
    whole = segment.path.read_bytes()
    bench.flush(segment)
    assert (before, {"segment": whole}, 1) == (taken.read_bytes(), bench.quarantined(), bench.count("segment"))
    assert ["s-2", f"s-{US_PER_DAY}"] == [row["session_id"] for row in read_rows(bench.data_dir / "events" / "site=b")]
    assert not segment.path.exists()


def test_segment_put_back_from_quarantine_becomes_the_missing_parts(bench: Bench) -> None:
    """After a person has moved the other file away. Parts that are already published are kept."""
    segment = bench.sealed()
    taken = bench.data_dir / "events" / "site=a" / "date=2026-05-28" / f"{segment.id}.parquet"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"in the way")
    bench.flush(segment)
    taken.unlink()
    kept = bench.data_dir / "quarantine" / f"{segment.id}.segment"
    kept.rename(bench.data_dir / "journal" / "0" / kept.name)
    (again,) = bench.store.left_over()
    bench.flush(again)
    assert [each.row[2] for each in EVENTS] == [row["session_id"] for row in read_rows(bench.data_dir / "events")]


def test_conflict_is_retried_while_the_disk_fails(bench: Bench) -> None:
    """The segment goes to quarantine only once nothing else fails."""
    segment = bench.sealed()
    path = bench.data_dir / "events" / "site=a" / "date=2026-05-28" / f"{segment.id}.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"in the way")
    (bench.data_dir / "events" / "site=b").touch()
    with pytest.raises(OSError, match="site=b"):
        bench.flush(segment)
    assert {} == bench.quarantined()


def test_conflict_in_memory_keeps_the_events(bench: Bench) -> None:
    segment = bench.sealed()
    segment.path = None
    path = bench.data_dir / "events" / "site=a" / "date=2026-05-28" / f"{segment.id}.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"in the way")
    with pytest.raises(PartConflict):
        bench.flush(segment)


def test_part_with_more_rows_than_the_segment_is_kept(bench: Bench) -> None:
    """The segment was damaged between the publication of its part and its release."""
    segment = bench.sealed(EVENTS[:1] + EVENTS[2:3])
    assert segment.path is not None
    data = bytearray(segment.path.read_bytes())
    bench.flush(segment)
    data[-1] ^= 1
    segment.path.write_bytes(data)
    segment.buffer = None
    bench.flush(segment)
    assert (2, ["torn"]) == (len(read_rows(bench.data_dir / "events")), list(bench.quarantined()))


def pieces(data: bytes) -> Iterator[bytes]:
    return (b"\xffREC" + piece for piece in data.split(b"\xffREC")[1:])


def test_unreadable_bytes_are_kept_once_and_counted_once(bench: Bench) -> None:
    """However often the flush is retried: a torn tail, damage before it, and a value that no longer fits its column."""
    unfit = stored("a", 9, b'{"session_id": 7}')
    segment = bench.sealed([EVENTS[0], EVENTS[2], unfit], in_memory=False)
    assert segment.path is not None
    data = bytearray(segment.path.read_bytes() + b"\xffREC torn")
    _, second, third, torn = pieces(bytes(data))
    place = data.index(second) + len(second) - 1
    data[place] ^= 1
    segment.path.write_bytes(data)
    (bench.data_dir / "events" / "site=a").touch()
    for _ in range(2):
        with pytest.raises(OSError, match="site=a"):
            bench.flush(segment)
    expected = {"torn": torn, "damaged": second[:-1] + bytes([second[-1] ^ 1]), "unfit": third}
    assert expected == bench.quarantined()
    assert [1, 1, 1] == [bench.count(kind) for kind in expected]
    (bench.data_dir / "events" / "site=a").unlink()
    bench.flush(segment)
    assert ["s-1", None] == [row["session_id"] for row in read_rows(bench.data_dir / "events")]


def spied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record, in order, which paths are synced and when a segment is deleted."""
    seen: list[str] = []
    fsync, unlink = os.fsync, os.unlink

    def spy_fsync(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(bench.data_dir)))

    def spy_unlink(path: Path) -> None:
        unlink(path)
        if Path(path).parent.parent.name == "journal":
            seen.append("released")

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "unlink", spy_unlink)
    return seen


@pytest.fixture
def synced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return spied(bench, monkeypatch)


def test_release_is_synced(bench: Bench, synced: list[str]) -> None:
    """Otherwise a power cut could bring the segment back after its parts were dropped, and they would reappear."""
    segment = bench.sealed()
    synced.clear()
    bench.flush(segment)
    assert ["released", "journal/0"] == synced[-2:]


def test_folder_of_an_existing_part_is_synced_before_the_release(tmp_path: Path, bench: Bench) -> None:
    """The process that published the part may have been killed before it synced the folder."""
    segment = bench.sealed(EVENTS[:1])
    assert segment.path is not None
    aside = shutil.copy(segment.path, tmp_path / "aside")
    bench.flush(segment)
    shutil.copy(aside, segment.path)
    next_start = Bench(tmp_path)
    (left,) = next_start.store.left_over()
    with pytest.MonkeyPatch.context() as patch:
        synced = spied(next_start, patch)
        next_start.flush(left)
    before = synced[: synced.index("released")]
    assert ["events", "events/site=a", "events/site=a/date=2026-05-28"] == before[-3:]


def test_copy_in_quarantine_is_synced_before_it_gets_its_name(bench: Bench, synced: list[str]) -> None:
    segment = bench.sealed(EVENTS[:1], in_memory=False)
    assert segment.path is not None
    with segment.path.open("ab") as file:
        file.write(b"\xffREC torn")
    synced.clear()
    bench.flush(segment)
    copy, name = synced.index(f"staging/0/{segment.id}.torn"), synced.index("quarantine")
    assert copy < name < synced.index("released")


@pytest.mark.parametrize("kind", ["torn", "segment"])
def test_segment_is_kept_until_the_name_of_its_copy_in_quarantine_is_synced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Even if an earlier attempt made the copy, because a power cut could still take its name."""
    segment = bench.sealed(EVENTS[:1], in_memory=False)
    assert segment.path is not None
    if kind == "torn":
        with segment.path.open("ab") as file:
            file.write(b"\xffREC torn")
    else:
        taken = bench.data_dir / "events" / "site=a" / "date=2026-05-28" / f"{segment.id}.parquet"
        taken.parent.mkdir(parents=True)
        taken.write_bytes(b"in the way")
    folder, fsync = str(bench.data_dir / "quarantine"), os.fsync
    failures, synced = [5, 5], []

    def flaky(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == folder:
            if failures:
                raise OSError(failures.pop(), "Input/output error")
            synced.append(segment.path is not None and segment.path.exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flaky)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            bench.flush(segment)
        assert segment.path.exists()
    bench.flush(segment)
    assert ([True], [kind]) == (synced, list(bench.quarantined()))
    assert not segment.path.exists()


MANY = [stored("a", number, body(session_id=f"s-{number}", page_referrer="x" * 500)) for number in range(60)]


def bad_sectors(monkeypatch: pytest.MonkeyPatch, *blocks: int) -> None:
    """A read that starts in a bad block fails. A read that reaches one later stops before it, as in the kernel."""
    preadv = os.preadv

    def flaky(descriptor: int, buffers: list[memoryview], at: int) -> int:
        (buffer,) = buffers
        if at // BLOCK_BYTES in blocks:
            raise OSError(EIO, "Input/output error")
        good = min((block * BLOCK_BYTES - at for block in blocks if block * BLOCK_BYTES > at), default=len(buffer))
        return preadv(descriptor, [buffer[:good]], at)

    monkeypatch.setattr(os, "preadv", flaky)


def records(path: Path) -> list[Record | Batch | Damage]:
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        return list(scan(file, path.stem[-16:]))


@pytest.mark.parametrize("blocks", [(0,), (1,), (2, 3), (1, 4), (-1,), (-1, 0)], ids=str)
def test_unreadable_block_loses_only_its_own_records(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, ...]
) -> None:
    """After a few retries, since a disk can recover. Unreadable bytes are damage, even at the segment's end."""
    segment = bench.sealed(MANY, in_memory=False)
    assert segment.path is not None
    whole = segment.path.read_bytes()
    blocks = tuple(block % -(-len(whole) // BLOCK_BYTES) for block in blocks)
    lost = {
        found.start
        for found in records(segment.path)
        if any(found.start < (block + 1) * BLOCK_BYTES and found.end > block * BLOCK_BYTES for block in blocks)
    }
    expected = [each.row[2] for each, found in zip(MANY, records(segment.path), strict=True) if found.start not in lost]
    assert 30 < len(expected) < len(MANY)
    with monkeypatch.context() as patch:
        bad_sectors(patch, *blocks)
        for _ in range(FAILED_READS):
            with pytest.raises(OSError, match="Input/output"):
                bench.flush(segment)
            assert ([], {}) == (bench.parts(), bench.quarantined())
        bench.flush(segment)
    assert expected == [row["session_id"] for row in read_rows(bench.data_dir / "events")]
    assert {"damaged", "segment"} == bench.quarantined().keys()
    assert whole == bench.quarantined()["segment"], "the file itself is kept: another tool may be able to read it"
    assert not segment.path.exists()


def test_disk_that_recovers_loses_no_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = bench.sealed(MANY, in_memory=False)
    for _ in range(FAILED_READS):
        with monkeypatch.context() as patch:
            bad_sectors(patch, 1)
            with pytest.raises(OSError, match="Input/output"):
                bench.flush(segment)
    bench.flush(segment)
    assert (len(MANY), {}) == (len(read_rows(bench.data_dir / "events")), bench.quarantined())


def test_copy_of_an_unreadable_block_holds_zeros(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = bench.sealed(MANY, in_memory=False)
    assert segment.path is not None
    data = bytearray(segment.path.read_bytes())
    segment.failed_reads = FAILED_READS
    bad_sectors(monkeypatch, 2)
    (bench.data_dir / "events" / "site=a").touch()
    for _ in range(2):
        with pytest.raises(OSError, match="site=a"):
            bench.flush(segment)
    data[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    segment.path.write_bytes(data)
    (damage,) = (found for found in records(segment.path) if isinstance(found, Damage))
    assert data[damage.start : damage.end] == bench.quarantined()["damaged"]
    assert [1, 1] == [bench.count(kind) for kind in ("damaged", "segment")], "once, however often the flush is retried"


def test_salvaged_segment_that_is_put_back_becomes_complete(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its blocks can be read again, and a person has moved away the part that lacks their events."""
    segment = bench.sealed(MANY, in_memory=False)
    segment.failed_reads = FAILED_READS
    with monkeypatch.context() as patch:
        bad_sectors(patch, 1)
        (part,) = bench.flush(segment)
    assert part.rows < len(MANY)
    part.path.unlink()
    kept = bench.data_dir / "quarantine" / f"{segment.id}.segment"
    kept.rename(bench.data_dir / "journal" / "0" / kept.name)
    (again,) = bench.store.left_over()
    bench.flush(again)
    assert [each.row[2] for each in MANY] == [row["session_id"] for row in read_rows(bench.data_dir / "events")]


def session_ids(bench: Bench) -> list[str]:
    return sorted(row["session_id"] for row in read_rows(bench.data_dir / "events"))


def test_answers_of_batches_are_remembered_before_the_segment_is_deleted(bench: Bench) -> None:
    segment = bench.with_batches((b"1", EVENTS[:1]), (b"", EVENTS[1:2]), (b"3", EVENTS[2:]))
    assert segment.path is not None
    there = []

    def remember(answers: list[tuple[bytes, bytes]]) -> None:
        assert segment.path is not None
        there.append(segment.path.exists())
        bench.answers.extend(answers)

    bench.remember = remember
    bench.flush(segment)
    assert ([True], [(b"1", b"answer to 1"), (b"3", b"answer to 3")]) == (there, bench.answers)
    assert (4, False) == (len(session_ids(bench)), segment.path.exists())


def test_segment_whose_answers_cannot_be_remembered_is_kept_for_a_retry(bench: Bench) -> None:
    segment = bench.with_batches((b"1", EVENTS))
    assert segment.path is not None

    def fail(answers: list[tuple[bytes, bytes]]) -> None:
        raise OSError(EIO, "Input/output error")

    bench.remember = fail
    with pytest.raises(OSError, match="Input/output"):
        bench.flush(segment)
    assert segment.path.exists()
    bench.remember = bench.answers.extend
    bench.flush(segment)
    assert ([(b"1", b"answer to 1")], 4) == (bench.answers, len(session_ids(bench)))
    assert not segment.path.exists()


def test_answers_are_remembered_from_memory_too(bench: Bench) -> None:
    """The process may be killed between the release of the segment and the note of an answer elsewhere."""
    segment = bench.sealed()
    assert segment.buffer is not None
    segment.buffer.remember(b"1", b"answer")
    bench.flush(segment)
    assert [(b"1", b"answer")] == bench.answers


def test_answers_of_a_segment_in_quarantine_are_remembered(bench: Bench) -> None:
    segment = bench.with_batches((b"1", EVENTS))
    taken = bench.data_dir / "events" / "site=a" / "date=2026-05-28" / f"{segment.id}.parquet"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"in the way")
    bench.flush(segment)
    assert (["segment"], [(b"1", b"answer to 1")]) == (list(bench.quarantined()), bench.answers)


def test_torn_batch_is_neither_published_nor_answered(bench: Bench) -> None:
    segment = bench.with_batches((b"1", EVENTS[:2]), (b"2", EVENTS[2:]))
    assert segment.path is not None
    os.truncate(segment.path, segment.size_bytes - 1)
    bench.flush(segment)
    assert (["s-1", "s-2"], [(b"1", b"answer to 1")]) == (session_ids(bench), bench.answers)
    assert ["torn"] == list(bench.quarantined())


def test_damaged_batch_of_this_process_keeps_its_intact_records(bench: Bench) -> None:
    """A sealed segment holds only what was committed, so its last batch was acknowledged."""
    segment = bench.with_batches((b"1", EVENTS), left_over=False)
    assert segment.path is not None
    data = bytearray(segment.path.read_bytes())
    data[-1] ^= 1
    segment.path.write_bytes(data)
    bench.flush(segment)
    assert (["s-1", "s-2", "s-3"], [(b"1", b"answer to 1")]) == (session_ids(bench), bench.answers)


@pytest.mark.parametrize("block", [1, 4, -1])
def test_unreadable_block_of_the_last_batch_loses_only_its_own_records(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """The batch may have been acknowledged, and a crash makes no block unreadable."""
    segment = bench.with_batches((b"1", MANY))
    assert segment.path is not None
    block %= -(-segment.size_bytes // BLOCK_BYTES)
    start, end = block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES
    kept = [
        each for each in records(segment.path) if isinstance(each, Record) and (each.end <= start or each.start >= end)
    ]
    assert 40 < len(kept) < 60
    bad_sectors(monkeypatch, block)
    for _ in range(FAILED_READS):
        with pytest.raises(OSError, match="Input/output"):
            bench.flush(segment)
    bench.flush(segment)
    assert (len(kept), [(b"1", b"answer to 1")]) == (len(session_ids(bench)), bench.answers)
    assert ["damaged", "segment"] == sorted(bench.quarantined())
