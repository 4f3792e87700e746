"""`collector inspect`: what it counts in a data_dir or a part, what it reports as broken, and what it ignores."""

import asyncio
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from collector.cli.files import Listing, walk
from collector.journal.record import HEADER_BYTES, Batch, Damage, Header, Record, encode_header, scan
from collector.parts.table import EVENT_SCHEMA
from tests.cli.in_process import Capture, run
from tests.support import FakeClock, config, event, running


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two flushes: three events of `demo` and one of `blog`, then one of `demo` and one that was rejected."""
    folder = tmp_path / "data"
    clock = FakeClock()

    async def write() -> None:
        async with running(config(folder, {"demo": {}, "blog": {}}), clock) as collector:
            for n in range(3):
                assert (await collector.post(event(session_id=f"s-{n}"))).status == 201
                clock.advance(60)
            assert (await collector.post(event(session_id="b-0"), site="blog")).status == 201
            await collector.flush()
            clock.advance(86_400)
            assert (await collector.post(event(session_id="s-3"))).status == 201
            clock.advance(60)
            assert (await collector.post({"visitor_id": "rejected"})).status == 202
            await collector.flush()

    asyncio.run(write())
    return folder


def table(out: str) -> dict[str, list[str]]:
    """The words of each line, by the first one."""
    return {words[0]: words[1:] for words in map(str.split, out.splitlines()) if words}


def test_inspect_counts_parts_and_rows_of_every_folder(data_dir: Path, capsys: Capture) -> None:
    assert run("inspect", data_dir) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert ["1", "3", "2026-05-28", "20:26:40", "2026-05-28", "20:28:40", "good"] == [
        *rows["events/site=demo/date=2026-05-28"][:2],
        *rows["events/site=demo/date=2026-05-28"][4:],
    ]
    assert {
        "events/site=blog/date=2026-05-28": ["1", "1"],
        "events/site=demo/date=2026-05-28": ["1", "3"],
        "events/site=demo/date=2026-05-29": ["1", "1"],
        "rejected/site=demo/date=2026-05-29": ["1", "1"],
    } == {folder: words[:2] for folder, words in rows.items() if "/" in folder}
    assert (["4", "6", "good"], "") == ([*rows["all"][:2], rows["all"][-1]], err)


def test_inspect_counts_the_rows_of_one_part(data_dir: Path, capsys: Capture) -> None:
    (part,) = (data_dir / "events" / "site=blog").rglob("*.parquet")
    assert run("inspect", part) == 0
    assert ["1", "1"] == table(capsys.readouterr().out)["all"][:2]


def test_inspect_prints_the_newest_events(data_dir: Path, capsys: Capture) -> None:
    """As many as requested, from all parts but those of rejected events."""
    assert run("inspect", data_dir, "--rows", "3") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {"s-3", "b-0", "s-2"} == {row["session_id"] for row in shown}


def test_inspect_prints_the_newest_rows_of_a_part_without_nulls(data_dir: Path, capsys: Capture) -> None:
    (part,) = (data_dir / "events" / "site=demo" / "date=2026-05-28").iterdir()
    assert run("inspect", part, "--rows", "2") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert ["s-1", "s-2"] == [row["session_id"] for row in shown]
    assert {"site_id": "demo", "page_path": "/pricing", "event_time": "2026-05-12 10:00:00+00:00"}.items() <= shown[
        0
    ].items()
    assert all(None not in row.values() for row in shown)


def _cut(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-5])


def _empty(part: Path) -> None:
    part.write_bytes(b"")


def _flip(part: Path) -> None:
    """Flip one bit of a session id. The part can still be read; only the page's checksum shows the damage."""
    found = pq.read_metadata(part).row_group(0).column(EVENT_SCHEMA.get_field_index("session_id"))
    data = bytearray(part.read_bytes())
    data[found.data_page_offset - 1] ^= 1  # the end of the dictionary page, just before the first data page
    part.write_bytes(data)
    assert pq.ParquetFile(part).read()["session_id"].to_pylist() != ["s-0", "s-1", "s-2"]


def _fewer_rows(part: Path) -> None:
    """Rewrite the part with its first row missing; the footer keeps the old count."""
    found = pq.ParquetFile(part).read()
    pq.write_table(found.slice(1), part)


def _foreign(part: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), part)


@pytest.mark.parametrize("damage", [_cut, _empty, _flip, _fewer_rows, _foreign])
def test_inspect_of_a_broken_part_exits_1_and_names_it(damage: Any, data_dir: Path, capsys: Capture) -> None:
    """The other parts are still shown."""
    (part,) = (data_dir / "events" / "site=demo" / "date=2026-05-28").iterdir()
    damage(part)
    for path in (part, data_dir):
        assert run("inspect", path) == 1
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert line.startswith(f"broken: {part}: ")
        assert "1 broken" in out
    assert ["1", "1"] == table(out)["events/site=blog/date=2026-05-28"][:2]


def test_inspect_ignores_files_that_a_collector_deletes_meanwhile(
    data_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a released segment nor a part of an expired day is broken."""
    (part,) = (data_dir / "events" / "site=demo" / "date=2026-05-28").iterdir()
    segment = data_dir / "journal" / "0" / "20260528T202640Z-0123456789abcdef.segment"
    segment.parent.mkdir(parents=True, exist_ok=True)
    segment.touch()
    inspect = import_module("collector.cli.inspect")

    def delete_after_listing(path: Path, passes: Callable[[str], bool]) -> Listing:
        listing = walk(path, passes)
        part.unlink()
        segment.unlink()
        return listing

    monkeypatch.setattr(inspect, "walk", delete_after_listing)
    assert run("inspect", data_dir) == 0
    out, err = capsys.readouterr()
    assert ("", False) == (err, "events/site=demo/date=2026-05-28" in table(out))
    assert "events/site=blog/date=2026-05-28" in table(out)


def test_inspect_finishes_a_segment_that_is_deleted_while_it_is_read(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = tmp_path / "20260528T202640Z-0123456789abcdef.segment"
    segment.write_bytes(encode_header(Header("0123456789abcdef", by_site=True)))

    def delete_and_scan(file: BinaryIO, segment_id: str) -> Iterator[Record | Batch | Damage]:
        segment.unlink()
        return scan(file, segment_id)

    monkeypatch.setattr(import_module("collector.cli.inspect"), "scan", delete_and_scan)
    assert run("inspect", tmp_path) == 0
    assert ["1", "0", f"{HEADER_BYTES}"] == table(capsys.readouterr().out)["all"][:3]


def test_inspect_of_a_missing_path_exits_1(tmp_path: Path, capsys: Capture) -> None:
    assert run("inspect", tmp_path / "nothing") == 1
    assert ("", f"collector: {tmp_path / 'nothing'}: no such file or folder\n") == capsys.readouterr()


def test_inspect_of_an_empty_folder_counts_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert run("inspect", tmp_path) == 0
    out, err = capsys.readouterr()
    assert (["0", "0"], "") == (table(out)["all"][:2], err)


def test_inspect_prints_folder_names_with_square_brackets_as_they_are(data_dir: Path, capsys: Capture) -> None:
    """The table library must not take them for markup."""
    (data_dir.parent / "[").mkdir()
    data_dir.rename(data_dir.parent / "[" / "bold]")
    assert run("inspect", data_dir.parent) == 0
    assert "[/bold]/events/site=blog/date=2026-05-28" in table(capsys.readouterr().out)
