"""Analysts read the same rows, types and times with DuckDB, Polars, pandas and Arrow, even while the collector writes.

A collector wrote the dataset: three sites (two with ids that look like numbers), two days, two flushes a day.
"""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd  # type: ignore[import-untyped]  # pandas ships no types
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from collector import VERSION
from collector.events import CONTRACT_HASH
from collector.parts.table import EVENT_SCHEMA
from tests.support import FakeClock, Running, config, event, running

SITES = ("demo", "007", "42")
DAYS = ("2026-05-28", "2026-05-29")
FLUSHES = 4  # two a day
ROUNDS = 60  # how often each site sends VARIANTS per flush: more than one batch of 256 rows

Row = dict[str, Any]

# What is sent, and what readers find.
VARIANTS: tuple[tuple[Row, Row], ...] = (
    (
        {"event_time": "2026-05-12T10:00:00.123456789+02:00", "lcp": 12, "is_entry": True, "page_title": "Größe 😀"},
        {
            "event_time": datetime(2026, 5, 12, 8, 0, 0, 123456, UTC),
            "lcp": 12.0,
            "is_entry": True,
            "page_title": "Größe 😀",
        },
    ),
    (
        {"event_time": "yesterday", "lcp": 2**63 + 1, "is_entry": False, "page_title": ""},
        {"event_time_raw": "yesterday", "lcp": 2.0**63, "is_entry": False, "page_title": ""},
    ),
    (
        {"event_time": "0001-01-01T00:00:00Z", "lcp": -0.1},
        {"event_time_raw": "0001-01-01T00:00:00Z", "lcp": -0.1},
    ),
    (
        {"event_time": "9999-12-31T23:59:59.999999Z"},
        {"event_time_raw": "9999-12-31T23:59:59.999999Z"},
    ),
    (
        {"event_time": "2016-06-01T00:00:00-11:00"},
        {"event_time": datetime(2016, 6, 1, 11, tzinfo=UTC)},
    ),
)
COLUMNS = ("site_id", "session_id", "received_at", "event_time", "event_time_raw", "lcp", "is_entry", "page_title")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A run's files under `events/`, and the rows that they should contain."""

    root: Path
    by_site: bool
    expected: list[Row]

    @property
    def glob(self) -> str:
        return f"{self.root}/**/*.parquet"


async def _fill(collector: Running, clock: FakeClock) -> list[Row]:
    expected: list[Row] = []
    for flush in range(FLUSHES):
        for n in range(ROUNDS):
            for site in SITES:
                for sent, found in VARIANTS:
                    id = f"{site}/{flush}/{n}/{len(expected)}"
                    assert (await collector.post(event(session_id=id, **sent), site=site)).status == 201
                    received_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=clock.us)
                    expected.append(
                        dict.fromkeys(COLUMNS)
                        | {"site_id": site, "session_id": id, "received_at": received_at, **found}
                    )
            clock.advance(0.000_001)
        await collector.flush()
        clock.advance(43_200 if flush % 2 else 3_600)
    return expected


@pytest.fixture(scope="module", params=[("site", "date"), ("date",)], ids="/".join)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Day one at 20:26 and 21:26 UTC, day two at 09:26 and 10:26."""
    data_dir = tmp_path_factory.mktemp("readers")
    clock = FakeClock()
    settings = config(
        data_dir,
        {site: {} for site in SITES},
        storage={"partition_by": request.param},
        rate_limit={"requests_per_minute": 0},
    )

    async def write() -> list[Row]:
        async with running(settings, clock) as collector:
            return await _fill(collector, clock)

    return Dataset(data_dir / "events", "site" in request.param, asyncio.run(write()))


def sql(query: str) -> pa.Table:
    with duckdb.connect() as connection:
        return connection.sql(query).to_arrow_table()


def with_duckdb(dataset: Dataset) -> list[Row]:
    columns = ", ".join((*COLUMNS, "date"))
    rows: list[Row] = sql(f"SELECT {columns} FROM read_parquet('{dataset.glob}', hive_partitioning = true)").to_pylist()
    return rows


def with_polars(dataset: Dataset) -> list[Row]:
    return pl.scan_parquet(dataset.glob, hive_partitioning=True).select(*COLUMNS, "date").collect().to_dicts()


def with_pandas(dataset: Dataset) -> list[Row]:
    frame = pd.read_parquet(dataset.root, dtype_backend="pyarrow")[[*COLUMNS, "date"]]
    return [
        {name: None if value is pd.NA or value is pd.NaT else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def with_arrow_dataset(dataset: Dataset) -> list[Row]:
    rows: list[Row] = ds.dataset(dataset.root, partitioning="hive").to_table([*COLUMNS, "date"]).to_pylist()
    return rows


def with_arrow_table(dataset: Dataset) -> list[Row]:
    rows: list[Row] = pq.read_table(dataset.root, columns=[*COLUMNS, "date"]).to_pylist()
    return rows


READERS: tuple[Callable[[Dataset], list[Row]], ...] = (
    with_duckdb,
    with_polars,
    with_pandas,
    with_arrow_dataset,
    with_arrow_table,
)


@pytest.mark.parametrize("read", READERS)
def test_every_reader_finds_the_same_rows_and_times(dataset: Dataset, read: Callable[[Dataset], list[Row]]) -> None:
    """`date` is the UTC day of receipt. Some readers return text for it and some a date."""
    rows = sorted(read(dataset), key=lambda row: str(row["session_id"]))
    days = [date.fromisoformat(str(row.pop("date"))) for row in rows]
    assert sorted(dataset.expected, key=lambda row: str(row["session_id"])) == rows
    assert [row["received_at"].date() for row in rows] == days
    assert set(DAYS) == {day.isoformat() for day in days}


def test_every_part_has_the_schema_of_the_contract_in_arrow(dataset: Dataset) -> None:
    for path in dataset.root.rglob("*.parquet"):
        assert EVENT_SCHEMA.equals(pq.read_schema(path)), path


def test_duckdb_finds_the_right_types(dataset: Dataset) -> None:
    described = sql(f"DESCRIBE SELECT * FROM read_parquet('{dataset.glob}', hive_partitioning = true)").to_pylist()
    types = {row["column_name"]: row["column_type"] for row in described}
    names = {
        "string": "VARCHAR",
        "double": "DOUBLE",
        "bool": "BOOLEAN",
        "timestamp[us, tz=UTC]": "TIMESTAMP WITH TIME ZONE",
    }
    columns = {field.name: names[str(field.type)] for field in EVENT_SCHEMA}
    partitions = {"date": "DATE"} | ({"site": "VARCHAR"} if dataset.by_site else {})
    assert columns | partitions == types


def test_polars_finds_the_right_types(dataset: Dataset) -> None:
    types = dict(pl.scan_parquet(dataset.glob, hive_partitioning=True).collect_schema())
    names = {
        "string": pl.String(),
        "double": pl.Float64(),
        "bool": pl.Boolean(),
        "timestamp[us, tz=UTC]": pl.Datetime("us", "UTC"),
    }
    columns = {field.name: names[str(field.type)] for field in EVENT_SCHEMA}
    partitions = {"date": pl.Date()} | ({"site": pl.String()} if dataset.by_site else {})
    assert columns | partitions == types


def test_pandas_finds_the_right_types(dataset: Dataset) -> None:
    types = pd.read_parquet(dataset.root, dtype_backend="pyarrow").dtypes
    assert {field.name: field.type for field in EVENT_SCHEMA} == {
        field.name: types[field.name].pyarrow_dtype for field in EVENT_SCHEMA
    }


def test_pandas_without_arrow_types_finds_utc_times_and_floats(dataset: Dataset) -> None:
    types = pd.read_parquet(dataset.root, columns=["received_at", "event_time", "lcp", "site_id"]).dtypes.astype(str)
    assert {
        "received_at": "datetime64[us, UTC]",
        "event_time": "datetime64[us, UTC]",
        "lcp": "float64",
        "site_id": "str",
    } == {name: types[name] for name in ("received_at", "event_time", "lcp", "site_id")}


def test_pandas_converts_times_to_other_zones_and_intervals(dataset: Dataset) -> None:
    """A single time in the year 1 or 9999 would fail the whole column, and some visitors send such times."""
    frame = pd.read_parquet(dataset.root).dropna(subset="event_time")
    for zone in ("Pacific/Kiritimati", "Pacific/Niue"):
        there = frame["event_time"].dt.tz_convert(zone)
        assert {2016, 2026} == set(there.dt.year)
        assert len(frame) == frame.set_index(there)["session_id"].resample("MS").count().sum()


def test_query_can_be_narrowed_to_one_site_and_day(dataset: Dataset) -> None:
    """By the folder `site` if the layout has it, else by `site_id`."""
    column = "site" if dataset.by_site else "site_id"
    (found,) = sql(
        f"SELECT count(*) AS n, min(received_at) AS first FROM read_parquet('{dataset.glob}', hive_partitioning = true)"
        f" WHERE {column} = '007' AND date = DATE '{DAYS[1]}'"
    ).to_pylist()
    expected = [
        row["received_at"]
        for row in dataset.expected
        if row["site_id"] == "007" and row["received_at"].date().isoformat() == DAYS[1]
    ]
    assert {"n": len(expected), "first": min(expected)} == found


def test_site_folder_and_site_id_agree(dataset: Dataset) -> None:
    if not dataset.by_site:
        folders = {path.parent.relative_to(dataset.root).as_posix() for path in dataset.root.rglob("*.parquet")}
        assert {f"date={day}" for day in DAYS} == folders
        return
    for site in SITES:
        tables = [pq.ParquetFile(path).read(["site_id"]) for path in (dataset.root / f"site={site}").rglob("*.parquet")]
        assert {site} == set(pa.concat_tables(tables)["site_id"].to_pylist())


@pytest.fixture(scope="module")
def numbers_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose sites all look like numbers. Then readers guess the type."""
    data_dir = tmp_path_factory.mktemp("numbers")

    async def write() -> None:
        async with running(config(data_dir, {"007": {}, "42": {}})) as collector:
            for site in ("007", "42"):
                assert (await collector.post(event(), site=site)).status == 201
            await collector.flush()

    asyncio.run(write())
    return data_dir / "events"


def test_duckdb_keeps_numeric_site_ids_if_given_the_type(numbers_only: Path) -> None:
    """Otherwise it reads a lone `site=42` as a number, which `site = '042'` would also match."""

    def sites(options: str, folder: str = "") -> list[Any]:
        source = f"read_parquet('{numbers_only}/{folder}**/*.parquet', hive_partitioning = true{options})"
        return sorted(row["site"] for row in sql(f"SELECT site FROM {source}").to_pylist())

    assert [42] == sites("", "site=42/")
    assert ["42"] == sites(", hive_types = {'site': VARCHAR}", "site=42/")
    assert ["007", "42"] == sites(", hive_types = {'site': VARCHAR, 'date': DATE}")
    assert ["007", "42"] == sites(", hive_types_autocast = false")


def test_polars_keeps_numeric_site_ids_if_given_the_type(numbers_only: Path) -> None:
    """Otherwise it reads `site=007` as the number 7."""

    def sites(schema: dict[str, pl.DataType] | None) -> list[Any]:
        frame = pl.scan_parquet(f"{numbers_only}/**/*.parquet", hive_partitioning=True, hive_schema=schema)
        return frame.select("site").collect()["site"].sort().to_list()

    assert [7, 42] == sites(None)
    assert ["007", "42"] == sites({"site": pl.String(), "date": pl.Date()})


def test_arrow_keeps_numeric_site_ids_if_given_the_type(numbers_only: Path) -> None:
    """Otherwise it reads `site=007` as the number 7. The same `partitioning` works for pandas."""
    given = ds.partitioning(pa.schema([("site", pa.string()), ("date", pa.date32())]), flavor="hive")
    assert [7, 42] == sorted(ds.dataset(numbers_only, partitioning="hive").to_table(["site"])["site"].to_pylist())
    assert ["007", "42"] == sorted(ds.dataset(numbers_only, partitioning=given).to_table(["site"])["site"].to_pylist())
    assert ["007", "42"] == sorted(pd.read_parquet(numbers_only, partitioning=given)["site"].tolist())


LOOK_LIKE_SOMETHING_ELSE = ("null", "NULL", "None", "nan", "true", "007", "-1", "1e400", "2026-01-01", "_x", "-")


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose sites readers could mistake for nulls, numbers, booleans or dates."""
    data_dir = tmp_path_factory.mktemp("strange")

    async def write() -> None:
        async with running(config(data_dir, {site: {} for site in LOOK_LIKE_SOMETHING_ELSE})) as collector:
            for site in LOOK_LIKE_SOMETHING_ELSE:
                assert (await collector.post(event(), site=site)).status == 201
            await collector.flush()

    asyncio.run(write())
    return data_dir / "events"


def sites_as_documented(root: Path) -> list[list[Any]]:
    """The sites as each reader finds them in folder names, with the options that the documentation gives."""
    given = ds.partitioning(pa.schema([("site", pa.string()), ("date", pa.date32())]), flavor="hive")
    options = "hive_partitioning = true, hive_types = {'site': VARCHAR, 'date': DATE}"
    frame = pl.scan_parquet(
        f"{root}/**/*.parquet", hive_partitioning=True, hive_schema={"site": pl.String(), "date": pl.Date()}
    )
    return [
        sorted(sql(f"SELECT site FROM read_parquet('{root}/**/*.parquet', {options})")["site"].to_pylist()),
        sorted(frame.select("site").collect()["site"].to_list()),
        sorted(ds.dataset(root, partitioning=given).to_table(["site"])["site"].to_pylist()),
    ]


def test_site_ids_that_look_like_other_types_stay_text(strange: Path) -> None:
    assert 3 * [sorted(LOOK_LIKE_SOMETHING_ELSE)] == sites_as_documented(strange)
    assert sorted(LOOK_LIKE_SOMETHING_ELSE) == sorted(pd.read_parquet(strange)["site_id"])


@pytest.mark.parametrize("site", LOOK_LIKE_SOMETHING_ELSE)
def test_lone_site_id_that_looks_like_another_type_stays_text(tmp_path: Path, strange: Path, site: str) -> None:
    """Readers guess the type from all folders together, so each is also tried alone."""
    shutil.copytree(strange / f"site={site}", tmp_path / f"site={site}")
    assert 3 * [[site]] == sites_as_documented(tmp_path)
    assert [site] == list(pd.read_parquet(tmp_path)["site_id"])


@pytest.mark.parametrize("others", [(), ("demo",)])
def test_refused_site_id_would_make_readers_fail(tmp_path: Path, strange: Path, others: tuple[str, ...]) -> None:
    for name in ("__HIVE_DEFAULT_PARTITION__", *others):
        shutil.copytree(strange / "site=null", tmp_path / f"site={name}")
    with pytest.raises(pa.ArrowInvalid):
        pd.read_parquet(tmp_path)


def test_footer_names_the_writer_and_the_number_of_rows(dataset: Dataset) -> None:
    parts = list(dataset.root.rglob("*.parquet"))
    assert len(parts) == FLUSHES * (len(SITES) if dataset.by_site else 1)
    for path in parts:
        found = pq.read_metadata(path)
        assert {
            b"collector.version": VERSION.encode(),
            b"collector.contract": CONTRACT_HASH.encode(),
            b"collector.segment": path.stem.encode(),
            b"collector.rows": str(found.num_rows).encode(),
        }.items() <= found.metadata.items()


def test_each_flush_is_one_segment_for_all_sites(dataset: Dataset) -> None:
    assert len({path.stem for path in dataset.root.rglob("*.parquet")}) == FLUSHES


def test_rejected_is_a_dataset_of_its_own(tmp_path: Path) -> None:
    async def write() -> None:
        async with running(config(tmp_path)) as collector:
            assert (await collector.post(b'{"visitor_id": 1}')).status == 202
            assert (await collector.post(event())).status == 201
            await collector.flush()

    asyncio.run(write())
    (row,) = sql(f"FROM read_parquet('{tmp_path}/rejected/**/*.parquet', hive_partitioning = true)").to_pylist()
    assert (date(2026, 5, 28), "demo", '{"visitor_id": 1}') == (row["date"], row["site"], row["body"])
    assert row["message"].startswith("Validation error: ")
    assert sql(f"FROM read_parquet('{tmp_path}/events/**/*.parquet')").num_rows == 1


def _count_with_duckdb(root: Path) -> int:
    table = sql(f"SELECT count(session_id) AS n FROM read_parquet('{root}/**/*.parquet', hive_partitioning = true)")
    return int(table["n"][0].as_py())


def _count_with_polars(root: Path) -> int:
    frame = pl.scan_parquet(f"{root}/**/*.parquet", hive_partitioning=True)
    return int(frame.select(pl.col("session_id").str.len_bytes() > 0).sum().collect().item())


def _count_with_arrow(root: Path) -> int:
    table = ds.dataset(root, partitioning="hive").to_table(["session_id", "received_at", "lcp"])
    table.validate(full=True)
    return int(table.num_rows)


@pytest.mark.parametrize("partition_by", [("site", "date"), ("date",)], ids="/".join)
async def test_readers_see_only_complete_parts_and_never_fewer_rows(
    tmp_path: Path, partition_by: tuple[str, ...]
) -> None:
    """Three readers query continuously during 25 flushes."""
    settings = config(
        tmp_path,
        {site: {} for site in SITES},
        storage={"partition_by": partition_by},
        rate_limit={"requests_per_minute": 0},
    )
    counters = (_count_with_duckdb, _count_with_polars, _count_with_arrow)
    stored = 0
    done = False

    async with running(settings) as collector:

        async def send_and_flush() -> None:
            nonlocal stored
            for site in SITES:
                for _ in range(5):
                    assert (await collector.post(event(lcp=stored), site=site)).status == 201
                    stored += 1
            await collector.flush()

        def look(count: Callable[[Path], int]) -> list[int]:
            counts = []
            while not done:
                counts.append(count(tmp_path / "events"))
            return [*counts, count(tmp_path / "events")]

        await send_and_flush()
        looking = [asyncio.create_task(asyncio.to_thread(look, count)) for count in counters]
        try:
            for _ in range(25):
                await send_and_flush()
        finally:
            done = True
        for counts in await asyncio.gather(*looking):
            assert sorted(counts) == counts
            assert (True, stored) == (counts[0] >= 15, counts[-1])
            assert len(set(counts)) > 3  # it did query during the flushes
