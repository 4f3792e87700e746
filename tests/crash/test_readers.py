"""Readers that count rows while the collector flushes, is killed and recovers: counts never fall, nothing fails."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.dataset as ds
import pytest

from tests.crash.conftest import times
from tests.crash.rounds import Ledger, kill, load, published, recover, verdict, victim_serving

Count = Callable[[Path], int]


def duckdb_count(events: Path) -> int:
    with duckdb.connect() as connection:
        query = f"SELECT count(session_id) FROM read_parquet('{events}/**/*.parquet', hive_partitioning = true)"
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def polars_count(events: Path) -> int:
    scan = pl.scan_parquet(f"{events}/**/*.parquet", hive_partitioning=True)
    return int(scan.select(pl.col("session_id").count()).collect().item())


def pyarrow_count(events: Path) -> int:
    return int(ds.dataset(events, partitioning="hive").count_rows())


@contextmanager
def counting(events: Path, counts: dict[str, list[int]], errors: list[str]) -> Iterator[None]:
    """Count with three readers in threads, from the first part until the block ends."""
    stop = threading.Event()

    def loop(count: Count) -> None:
        while not stop.wait(0.01):
            if next(events.rglob("*.parquet"), None) is None:
                continue  # readers reject a glob that matches nothing
            try:
                counts.setdefault(count.__name__, []).append(count(events))
            except Exception as exc:  # noqa: BLE001 - any error of a reader is what this looks for
                errors.append(f"{count.__name__}: {exc}")

    threads = [threading.Thread(target=loop, args=(count,)) for count in (duckdb_count, polars_count, pyarrow_count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


@pytest.mark.parametrize("partition_by", [["site", "date"], ["date"]], ids=["by site", "by date"])
def test_readers_never_fail_or_see_counts_fall(tmp_path: Path, partition_by: list[str]) -> None:
    ledger, events = Ledger(), tmp_path / "data" / "events"
    counts: dict[str, list[int]] = {}
    errors: list[str] = []
    with counting(events, counts, errors):
        for _ in range(times(short=2, long=20)):
            with victim_serving(tmp_path, storage={"partition_by": partition_by}) as process, load(process.url, ledger):
                time.sleep(random.uniform(0.5, 1.2))
                kill(process)
        recover(tmp_path)
    assert verdict(tmp_path / "data", ledger) is None
    assert [] == errors
    total = sum(published(tmp_path / "data").values())
    for count in (duckdb_count, polars_count, pyarrow_count):
        seen = counts[count.__name__]
        assert sorted(seen) == seen, f"{count.__name__} saw fewer events than before"
        assert total == count(events)
    print(f"\n{total} events; {sum(map(len, counts.values()))} counts by three readers, none of which fell")
