"""Segments cut at every byte and flipped at every bit: no event is invented, and only the damaged record is lost."""

import json
import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from collector.daemon.wiring import Stages, build_stages
from collector.events import Event
from collector.ingest.pipeline import replay
from collector.journal import record
from collector.journal.flush.quarantine import Quarantine
from collector.journal.flush.segment_flush import replay as read_back
from collector.journal.record import HEADER_BYTES, Header, crc_seed, encode, encode_header
from collector.journal.segment import Segment
from collector.metrics import Metrics
from collector.publish.local import Folders
from tests.crash.conftest import LONG
from tests.support import NOON_US, FakeClock, config, event, read_rows

ID = "0123456789abcdef"
NAME = f"20260528T202640Z-{ID}.segment"


def small_segment() -> tuple[bytes, list[Event], list[tuple[int, int]]]:
    """Make a segment of varied events; return its bytes, its events, and the start and end of each record."""
    varied: list[tuple[str, str | None, str | None, dict[str, Any]]] = [
        ("a", None, None, {}),
        ("b", "192.0.2.0", "Mozilla/5.0", {"page_title": "Grüße, 世界"}),
        ("a", "", "", {"lcp": 1.5, "event_type": "cwv"}),
        ("a-much-longer-site-id", None, "ü" * 40, {"page_referrer": "x" * 300}),
        ("b", "2001:db8::", None, {"event_time": "yesterday"}),
    ]
    data, events, places = encode_header(Header(ID, by_site=True)), [], []
    for number, (site, client_ip, user_agent, changes) in enumerate(varied):
        body = json.dumps(event(session_id=f"s-{number}", **changes), ensure_ascii=False).encode()
        kept, _ = replay(record.Record(0, 0, site, NOON_US + number, client_ip, user_agent, body))
        start = len(data)
        data += encode([kept], crc_seed(ID))
        events.append(kept)
        places.append((start, len(data)))
    return data, events, places


DATA, EVENTS, PLACES = small_segment()
ROWS = [kept.row for kept in EVENTS]


class Bench:
    """Reads segments back, and inspects the quarantine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Metrics()
        (folder / "staging").mkdir()
        self._quarantine = Quarantine(Folders(folder), "0", self.metrics)
        self._path = folder / NAME

    def read(self, data: bytes) -> list[list[Any]]:
        """Write these bytes as a segment and return its rows in order."""
        self._path.write_bytes(data)
        segment = Segment(ID, self._path, False, len(data), {}, None, left_over=True)
        buffer = read_back(segment, self._path, replay, self._quarantine)
        return [
            list(row)
            for section in buffer.sections
            for batch in section.decode()
            for row in zip(*(_plain(column).to_pylist() for column in batch), strict=True)
        ]

    def kept(self) -> dict[str, bytes]:
        """Return the quarantined bytes by kind, and empty the quarantine."""
        found = {}
        for path in (self.folder / "quarantine").glob("*"):
            found[path.suffix[1:]] = path.read_bytes()
            path.unlink()
        return found


def _plain(column: pa.Array) -> pa.Array:
    return column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of syncs, and no power cut in these tests
    return Bench(tmp_path)


def wrong(bench: Bench, data: bytes, touched: set[int]) -> str | None:
    """Read a segment back in which these bytes were changed; return what is wrong, or None."""
    hit = [bool(touched & set(range(*place))) for place in PLACES]
    rows = bench.read(data)
    expected = [row for row, was_hit in zip(ROWS, hit, strict=True) if not was_hit]
    if rows == expected:
        return None
    invented = [row for row in rows if row not in ROWS]
    return f"{len(invented)} rows were never written" if invented else f"rows {len(rows)} instead of {len(expected)}"


def test_segment_reads_back_as_it_was_written(bench: Bench) -> None:
    assert (ROWS, {}) == (bench.read(DATA), bench.kept())


def test_segment_cut_at_any_byte_keeps_every_complete_record_and_a_copy_of_its_tail(bench: Bench) -> None:
    for length in range(len(DATA)):
        cut_off = set(range(length, len(DATA)))
        assert wrong(bench, DATA[:length], cut_off) is None, f"cut to {length} bytes"
        whole = max([HEADER_BYTES, *(end for _, end in PLACES if end <= length)])
        assert bench.kept().get("torn", b"") == DATA[whole:length], f"cut to {length} bytes"


def flips() -> Iterator[tuple[int, int]]:
    """Yield (byte, bit): all in the long form; in the short one a bit of each byte, and all of the first frame."""
    for place in range(len(DATA)):
        every = LONG or place < PLACES[0][0] + 24
        for bit in range(8) if every else [random.randrange(8)]:
            yield place, bit


def flipped(place: int, bit: int) -> bytes:
    return DATA[:place] + bytes([DATA[place] ^ 1 << bit]) + DATA[place + 1 :]


def test_flipped_bit_loses_only_its_record_which_is_quarantined(bench: Bench) -> None:
    """A flip in the header loses no record, because the file name also has the segment id."""
    count = 0
    for count, (place, bit) in enumerate(flips(), 1):  # noqa: B007 - used after the loop
        data = flipped(place, bit)
        assert wrong(bench, data, {place}) is None, f"bit {bit} of byte {place}"
        start, end = next((where for where in PLACES if where[0] <= place < where[1]), (0, HEADER_BYTES))
        kind = "torn" if end == len(DATA) else "damaged"
        assert {kind: data[start:end]} == bench.kept(), f"bit {bit} of byte {place}"
    print(f"\n{count} flipped bits, {len(DATA)} cuts")
    registry = bench.metrics.registry
    counted = [registry.get_sample_value("collector_quarantined_total", {"kind": kind}) for kind in ("torn", "damaged")]
    assert count == sum(value or 0 for value in counted)


def test_zeros_and_garbage_lose_only_the_records_they_overwrite(bench: Bench) -> None:
    """Anywhere in the file, in several places, and after its end, as file systems leave them."""
    chance = random.Random(1)
    for _ in range(2_000 if LONG else 200):
        data, touched = bytearray(DATA), set()
        for _ in range(chance.randint(1, 3)):
            start = chance.randrange(HEADER_BYTES, len(DATA))
            end = min(len(DATA), start + chance.choice((1, 7, 64, 512)))
            data[start:end] = bytes(end - start) if chance.random() < 0.5 else chance.randbytes(end - start)
            touched |= {at for at in range(start, end) if data[at] != DATA[at]}
        tail = chance.choice((b"", bytes(5_000), chance.randbytes(3_000), b"\xffREC" * 9))
        assert wrong(bench, bytes(data) + tail, touched) is None
        bench.kept()


def test_records_of_another_segment_are_not_read(bench: Bench) -> None:
    """A file system may return blocks of a deleted file, with valid records of an older segment."""
    stale = encode([EVENTS[0]], crc_seed("fedcba9876543210"))
    assert ROWS == bench.read(DATA + stale)
    assert {"torn": stale} == bench.kept()


def test_suite_detects_a_missing_crc(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zlib, "crc32", lambda *_: 0)
    data = bytearray(small_segment()[0])
    place = PLACES[1][1] - 4  # in a body
    data[place] ^= 1
    assert wrong(bench, bytes(data), {place}) is not None


def recovered(data_dir: Path, data: bytes) -> Stages:
    """Flush a left-over segment with these bytes; return the stages that did it."""
    folder = data_dir / "journal" / "0"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(data)
    stages = build_stages(config(data_dir), FakeClock())
    stages.writer.prepare()
    for segment in stages.store.left_over():
        stages.flush_segment(segment)
    return stages


@pytest.mark.parametrize("place", [0, 9, 20, PLACES[0][0] + 5, PLACES[2][0] + 30, PLACES[4][1] - 1])
def test_damaged_segment_is_published_without_the_damaged_record(tmp_path: Path, place: int) -> None:
    recovered(tmp_path, flipped(place, 3))
    hit = [start <= place < end for start, end in PLACES]
    expected = sorted(f"s-{number}" for number, was_hit in enumerate(hit) if not was_hit)
    assert expected == sorted(row["session_id"] for row in read_rows(tmp_path / "events"))
    assert [] == list((tmp_path / "journal").rglob("*.segment"))


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES])
def test_segment_without_a_record_is_released_without_a_part(tmp_path: Path, length: int) -> None:
    """Left by a kill while the segment was being created."""
    recovered(tmp_path, DATA[:length])
    assert ([], []) == (read_rows(tmp_path / "events"), list((tmp_path / "journal").rglob("*.segment")))


def test_segment_of_a_newer_format_is_left_alone_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "VERSION", record.VERSION + 1)
    newer = encode_header(Header(ID, by_site=True)) + b"who knows"
    monkeypatch.undo()
    stages = recovered(tmp_path, newer)
    assert 1 == stages.store.newer
    assert newer == (tmp_path / "journal" / "0" / NAME).read_bytes()
