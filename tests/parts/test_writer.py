"""Parts: layout, order, footer, row groups, and what a retry does."""

import shutil
from collections import Counter
from collections.abc import Sequence
from errno import ENOSPC
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import ref

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.clock import US_PER_DAY
from collector.events import COLUMNS, CONTRACT_HASH, Row
from collector.parts.naming import new_segment_id
from collector.parts.section import Section
from collector.parts.table import EVENT_SCHEMA, merge, to_batch
from collector.parts.writer import PartConflict, PartWriter, _row_groups
from collector.publish.local import Folders
from collector.worker_slot import WorkerSlot
from tests.support import NOON_US, read_rows

writer_module: Any = import_module("collector.parts.writer")  # Any: its imports are replaced below
local_module: Any = import_module("collector.publish.local")

SEGMENT = "00000000000000ff"
NAMES = [column.name for column in COLUMNS]
TODAY = NOON_US // US_PER_DAY
TODAY_FOLDER = "date=2026-05-28"


def row(site_id: str, received_us: int = NOON_US, **values: Any) -> Row:
    filled: dict[str, Any] = {
        "site_id": site_id,
        "received_at": received_us,
        "session_id": "s",
        "event_type": "click",
    } | values
    return [filled.get(name) for name in NAMES]


def make_writer(data_dir: Path, *, compression: str = "zstd") -> PartWriter:
    made = PartWriter(Folders(data_dir), "0", compression=compression)
    made.prepare()
    return made


def section_of(rows: Sequence[Row], *, compress: bool = False) -> Section:
    """A section of these rows, in batches of three. Up to two are not columns yet."""
    section = Section()
    for values in rows:
        section.append((int(str(values[1])) // US_PER_DAY, str(values[0])), values, 1_000)
        if len(section.rows) == 3:
            section.to_columns(compress=compress)
    return section


def write(made: PartWriter, rows: Sequence[Row], segment: str = SEGMENT, *, by_site: bool = True) -> list[Path]:
    """Write the rows as one section. Returns the published paths, relative to data_dir."""
    parts = made.write_events(segment, [section_of(rows)], by_site=by_site)
    return [part.path.relative_to(made.data_dir) for part in parts]


MIXED = [
    row("b", NOON_US + 1),
    row("a", NOON_US + 2, lcp=1.5),
    row("b", NOON_US + US_PER_DAY),
    row("a", NOON_US + 3, lcp=2.5),
    row("b", NOON_US + 4),
    row("a-b", NOON_US + 5),
    row("B", NOON_US + 6),
]


def test_part_of_a_site_and_day_holds_its_rows_in_order_of_arrival(tmp_path: Path) -> None:
    paths = write(make_writer(tmp_path), MIXED)
    folders = [f"events/site={site}/{TODAY_FOLDER}" for site in ("B", "a", "a-b", "b")]
    assert [f"{folder}/{SEGMENT}.parquet" for folder in [*folders, "events/site=b/date=2026-05-29"]] == [
        str(path) for path in paths
    ]
    assert [1.5, 2.5] == [values["lcp"] for values in pq.ParquetFile(tmp_path / paths[1]).read().to_pylist()]
    assert ["b", "b"] == pq.ParquetFile(tmp_path / paths[3]).read()["site_id"].to_pylist()
    assert len(MIXED) == len(read_rows(tmp_path / "events"))


def test_one_part_per_day_is_sorted_by_site(tmp_path: Path) -> None:
    paths = write(make_writer(tmp_path), MIXED, by_site=False)
    assert [f"events/{TODAY_FOLDER}/{SEGMENT}.parquet", f"events/date=2026-05-29/{SEGMENT}.parquet"] == [
        str(path) for path in paths
    ]
    assert ["B", "a", "a", "a-b", "b", "b"] == pq.ParquetFile(tmp_path / paths[0]).read()["site_id"].to_pylist()


def test_part_is_compressed_and_indexed_and_its_footer_names_its_origin(tmp_path: Path) -> None:
    (path,) = write(make_writer(tmp_path), [*(row("a", lcp=1.0) for _ in range(600)), row("a", lcp=None)])
    metadata = pq.read_metadata(tmp_path / path)
    footer = {key.decode(): value.decode() for key, value in metadata.metadata.items() if b"collector" in key}
    expected = {"collector.contract": CONTRACT_HASH, "collector.segment": SEGMENT, "collector.rows": "601"}
    assert expected.items() <= footer.items()
    assert "collector.version" in footer
    lcp = metadata.row_group(0).column(NAMES.index("lcp"))
    assert ("ZSTD", True, True) == (lcp.compression, lcp.has_offset_index, lcp.has_column_index)
    assert (1, 1.0) == (lcp.statistics.null_count, lcp.statistics.max)
    session = metadata.row_group(0).column(NAMES.index("session_id"))
    assert ("ZSTD", True) == (session.compression, session.has_dictionary_page)
    visible = metadata.row_group(0).column(NAMES.index("visible"))
    assert "UNCOMPRESSED" == visible.compression  # only nulls: compression would make the column larger
    assert EVENT_SCHEMA.equals(pq.read_schema(tmp_path / path))


def test_small_part_has_statistics_page_indexes_and_checksums_too(tmp_path: Path) -> None:
    (path,) = write(make_writer(tmp_path), [row("a", NOON_US + n, lcp=1.0, browser="Firefox") for n in range(7)])
    metadata = pq.read_metadata(tmp_path / path)
    columns = [metadata.row_group(0).column(n) for n in range(len(NAMES))]
    assert all(column.is_stats_set and column.has_offset_index for column in columns)
    assert NOON_US + 6 == columns[1].statistics.max_raw
    assert not any(b"ARROW" in key for key in metadata.metadata), "5 KB of each file"
    assert EVENT_SCHEMA.equals(pq.read_schema(tmp_path / path))
    content = bytearray((tmp_path / path).read_bytes())
    content[content.index(b"Firefox")] ^= 1
    (tmp_path / path).write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(tmp_path / path, page_checksum_verification=True).read()


LONG = "".join(f"{n:03}" for n in range(200))


def test_small_part_is_compressed_like_the_average_of_its_segment(tmp_path: Path) -> None:
    """Site b alone would have no column that is large enough."""
    rows = [row("a", page_title=LONG, user_agent=100 * "u") for _ in range(16)]
    rows += [row("b", page_title="x", user_agent="u") for _ in range(16)]
    for path in write(make_writer(tmp_path), rows):
        group = pq.read_metadata(tmp_path / path).row_group(0)
        found = {name: group.column(NAMES.index(name)) for name in ("page_title", "user_agent", "language")}
        assert ["ZSTD", "UNCOMPRESSED", "UNCOMPRESSED"] == [column.compression for column in found.values()]
        assert [True, True, False] == [column.has_dictionary_page for column in found.values()]


def test_part_of_512_rows_is_compressed_by_its_own_sizes(tmp_path: Path) -> None:
    """By the average, site b's titles would be compressed like those of site a. But it has none."""
    rows = [row("a", page_title=LONG) for _ in range(16)] + [row("b") for _ in range(512)]
    small, large = (pq.read_metadata(tmp_path / path).row_group(0) for path in write(make_writer(tmp_path), rows))
    assert (16, 512) == (small.num_rows, large.num_rows)
    title, session = NAMES.index("page_title"), NAMES.index("session_id")
    assert ["UNCOMPRESSED", "UNCOMPRESSED"] == [group.column(title).compression for group in (small, large)]
    assert ["UNCOMPRESSED", "ZSTD"] == [group.column(session).compression for group in (small, large)]
    (path,) = write(make_writer(tmp_path), [row("c", page_title=LONG) for _ in range(512)], segment="11")
    assert "ZSTD" == pq.read_metadata(tmp_path / path).row_group(0).column(title).compression


def test_folders_of_new_sites_are_synced_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sync of their parent, not one for each site."""
    made, synced, real = make_writer(tmp_path), Counter[Path](), local_module.fsync_folder

    def counted(folder: Path) -> None:
        synced[folder] += 1
        real(folder)

    monkeypatch.setattr(local_module, "fsync_folder", counted)
    write(made, [row("a"), row("b"), row("c")])
    assert 1 == synced[tmp_path / "events"]
    assert [1, 1, 1] == [synced[site] for site in (tmp_path / "events").iterdir()]


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "lz4", "none"])
def test_every_codec_setting_can_be_written_and_read(tmp_path: Path, compression: str) -> None:
    write(make_writer(tmp_path, compression=compression), MIXED)
    assert len(MIXED) == len(read_rows(tmp_path / "events"))


def test_nothing_unfinished_is_ever_below_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment a reader finds complete parts only. Staging is a sibling folder, and empty afterwards."""
    seen: list[list[Path]] = []
    real = writer_module.fsync_file

    def look_around(path: Path) -> None:
        assert path.is_relative_to(tmp_path / "staging")
        found = [path for path in (tmp_path / "events").rglob("*") if path.is_file()]
        for path_found in found:
            pq.ParquetFile(path_found).read()
        seen.append(found)
        real(path)

    monkeypatch.setattr(writer_module, "fsync_file", look_around)
    made = make_writer(tmp_path)
    write(made, MIXED)
    assert [0, 1, 2, 3, 4] == [len(found) for found in seen]
    assert [] == list(made.staging.iterdir())


@pytest.mark.parametrize("failing", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("owner", "step"),
    [(writer_module, "fsync_file"), (Folders, "publish"), (local_module, "fsync_folder")],
    ids=["fsync_file", "publish", "fsync_folder"],
)
def test_retry_after_a_failure_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, failing: int
) -> None:
    """The n-th call of a step fails. Parts published before it are kept; the retry writes the others."""
    real, calls = getattr(owner, step), 0

    def fail_once(*args: Path) -> object:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        return real(*args)

    made = make_writer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail_once)
        with pytest.raises(OSError, match="No space"):
            write(made, MIXED)
        assert [] == list(made.staging.iterdir())
        kept = {path: path.stat().st_ino for path in (tmp_path / "events").rglob("*.parquet")}
    write(made, MIXED)
    assert len(MIXED) == len(read_rows(tmp_path / "events"))
    assert kept.items() <= {path: path.stat().st_ino for path in (tmp_path / "events").rglob("*.parquet")}.items()


def test_writing_a_segment_again_keeps_the_existing_files(tmp_path: Path) -> None:
    made = make_writer(tmp_path)
    first = [(tmp_path / path).stat().st_ino for path in write(made, MIXED)]
    assert first == [(tmp_path / path).stat().st_ino for path in write(made, MIXED)]


def test_name_taken_by_another_part_is_a_conflict_and_is_not_overwritten(tmp_path: Path) -> None:
    made = make_writer(tmp_path)
    (path,) = write(made, [row("a")])
    with pytest.raises(PartConflict, match="2 rows"):
        write(made, [row("a"), row("a")])
    (other,) = write(made, [row("a")], segment="11")
    shutil.copyfile(tmp_path / other, tmp_path / path)
    with pytest.raises(PartConflict, match=SEGMENT):
        write(made, [row("a")])


@pytest.mark.parametrize("by_site", [True, False])
def test_part_that_fails_does_not_stop_the_others(tmp_path: Path, by_site: bool) -> None:
    """A plain file blocks the name of a folder, for a site or a day."""
    made = make_writer(tmp_path)
    in_the_way = tmp_path / "events" / ("site=a" if by_site else TODAY_FOLDER)
    in_the_way.touch()
    with pytest.raises(OSError, match=in_the_way.name):
        write(made, MIXED, by_site=by_site)
    published = [values["site_id"] for values in read_rows(tmp_path / "events")]
    assert sorted(["B", "a-b", "b", "b", "b"] if by_site else ["b"]) == sorted(published)
    in_the_way.unlink()
    write(made, MIXED, by_site=by_site)
    assert len(MIXED) == len(read_rows(tmp_path / "events"))


def test_deleted_staging_folder_is_made_again(tmp_path: Path) -> None:
    made = make_writer(tmp_path)
    shutil.rmtree(tmp_path / "staging")
    write(made, MIXED)
    assert len(MIXED) == len(read_rows(tmp_path / "events"))


def test_merge_keeps_every_row_in_order() -> None:
    """For any number of batches, with several rounds of merging. A few batches are left as they are."""
    for count, left in ((1, 1), (64, 64), (65, 3), (2_048, 64), (2_049, 3)):
        batches = [to_batch([row(f"site-{number}")]) for number in range(count)]
        merge(batches)
        assert left == len(batches)
        assert [f"site-{number}" for number in range(count)] == [
            site_id for batch in batches for site_id in batch["site_id"].to_pylist()
        ]


def test_flush_holds_the_rows_only_once() -> None:
    """The unsorted rows, up to 64 MiB, are freed for the sorted ones, from which a retry makes the same parts."""
    section = section_of(MIXED)
    for _ in range(2):
        expected = [*"Baa", "a-b", *"bbb"]
        assert expected == section.table()["site_id"].to_pylist()
        assert expected == [site_id for batch in section.decode() for site_id in batch["site_id"].to_pylist()]


def halves(*, compress: bool) -> list[Section]:
    """MIXED as two sections."""
    first = [values for values in MIXED if values[0] in ("B", "b")]
    return [section_of(rows, compress=compress) for rows in (first, [row for row in MIXED if row not in first])]


@pytest.mark.parametrize("compress", [False, True])
def test_parts_are_the_same_however_the_rows_are_divided(tmp_path: Path, compress: bool) -> None:
    written = []
    for name, sections in (("one", [section_of(MIXED)]), ("two", halves(compress=compress))):
        made = make_writer(tmp_path / name)
        made.write_events(SEGMENT, sections, by_site=True)
        paths = sorted((tmp_path / name).rglob("*.parquet"))
        written.append([(path.relative_to(tmp_path / name), pq.ParquetFile(path).read().to_pylist()) for path in paths])
    assert written[0] == written[1]


@pytest.mark.parametrize("compress", [False, True])
def test_retry_writes_only_what_failed_and_returns_every_part(tmp_path: Path, compress: bool) -> None:
    """Rows of a section are freed once all its parts are published."""
    made, sections = make_writer(tmp_path), halves(compress=compress)
    in_the_way = tmp_path / "events" / "site=a"
    in_the_way.touch()
    with pytest.raises(OSError, match="site=a"):
        made.write_events(SEGMENT, sections, by_site=True)
    assert [0, 3] == [sum(batch.num_rows for batch in each.decode()) for each in sections]
    in_the_way.unlink()
    parts = made.write_events(SEGMENT, sections, by_site=True)
    assert len(MIXED) == sum(part.rows for part in parts) == len(read_rows(tmp_path / "events"))


@pytest.mark.parametrize("compress", [False, True])
def test_flush_on_a_full_disk_holds_one_section_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: bool
) -> None:
    """The frames of a kept exception would keep its section's table: 800 MiB of compressed sections, for example."""
    made, sections = make_writer(tmp_path), halves(compress=compress)
    tables: list[ref[pa.Table]] = []
    alive: list[int] = []

    def table(self: Section) -> pa.Table:
        alive.append(sum(each() is not None for each in tables))
        made_now = decode(self)
        tables.append(ref(made_now))
        return made_now

    def full(path: Path) -> None:
        raise OSError(ENOSPC, "full")

    decode = Section.table
    with monkeypatch.context() as patch:
        patch.setattr("collector.parts.writer.Section.table", table)
        patch.setattr("collector.parts.writer.fsync_file", full)
        with pytest.raises(OSError, match="full"):
            made.write_events(SEGMENT, sections, by_site=True)
    assert [0, 0] == alive
    assert len(MIXED) == sum(part.rows for part in made.write_events(SEGMENT, sections, by_site=True))


@pytest.mark.parametrize("error", [MemoryError, pa.ArrowMemoryError])
def test_section_that_cannot_be_decoded_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    made, sections = make_writer(tmp_path), halves(compress=True)
    decode = Section.decode

    def no_memory(self: Section) -> list[pa.RecordBatch]:
        if self is sections[0]:
            raise error
        return decode(self)

    with monkeypatch.context() as patch:
        patch.setattr("collector.parts.writer.Section.decode", no_memory)
        with pytest.raises(error):
            made.write_events(SEGMENT, sections, by_site=True)
    assert ["a", "a", "a-b"] == sorted(values["site_id"] for values in read_rows(tmp_path / "events"))
    assert len(MIXED) == sum(part.rows for part in made.write_events(SEGMENT, sections, by_site=True))


@pytest.mark.parametrize(("worker", "swept"), [(0, {"0", "7", "expired"}), (1, {"1"})])
def test_prepare_deletes_leftovers_of_killed_processes(tmp_path: Path, worker: int, swept: set[str]) -> None:
    """Two workers sweep their own folders. The first also sweeps the folders of workers that no longer exist."""
    left = {name: tmp_path / "staging" / name / "left" for name in ("0", "1", "7", "expired")}
    for path in left.values():
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half a part")
    slot = WorkerSlot(worker, 2)
    PartWriter(Folders(tmp_path), slot.folder, compression="zstd", adopts=slot.adopts).prepare()
    assert swept == {name for name, path in left.items() if not path.exists()}


@given(
    st.lists(st.sampled_from([1, 7, 100, 8_191, 8_192, 131_071, 131_072, 131_073, 300_000]), min_size=1, max_size=12)
)
def test_row_groups_hold_every_row_within_bounds_and_end_at_site_boundaries(sites: list[int]) -> None:
    """A site is split only if it is larger than a row group. Its pieces share no group with another site."""
    groups = _row_groups(sites)
    assert sum(sites) == sum(groups)
    assert all(0 < rows <= 128 * 1024 for rows in groups)
    ends = {sum(groups[: n + 1]) for n in range(len(groups))}
    start = 0
    for rows in sites:
        if rows > 128 * 1024:
            assert start + rows in ends
            assert start in ends | {0}
        elif rows >= 8 * 1024:
            assert start + rows in ends
        else:
            assert not any(start < end < start + rows for end in ends)
        start += rows


def test_segment_ids_do_not_repeat() -> None:
    ids = {new_segment_id() for _ in range(10_000)}
    assert (10_000, {16}) == (len(ids), {len(each) for each in ids})
