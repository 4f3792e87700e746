"""Rejects: which are kept, and the limits on their number and size."""

import os
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from collector.clock import US_PER_DAY, US_PER_S
from collector.journal.flush.rejects import (
    MAX_PER_MINUTE,
    MAX_WAITING_BYTES,
    SITE_MAX_PER_MINUTE,
    Rejected,
    RejectedStore,
    Rejects,
)
from collector.parts.writer import PartWriter
from collector.publish.local import Folders
from collector.worker_slot import WorkerSlot
from tests.crash.conftest import times
from tests.support import NOON_US, Running, config, event, read_rows, running

MINUTE_US = 60 * US_PER_S
START_US = NOON_US // MINUTE_US * MINUTE_US


def rejected(received_us: int = START_US, body: bytes = b"{}") -> Rejected:
    return Rejected(received_us, "Validation error: body is wrong", body)


@pytest.fixture
def writer(tmp_path: Path) -> PartWriter:
    made = PartWriter(Folders(tmp_path), "0", compression="zstd")
    made.prepare()
    return made


def test_site_has_a_limit_for_each_minute_that_leaves_room_for_others() -> None:
    rejects = Rejects(enabled=True)
    kept = [rejects.keep("a", rejected()) for _ in range(SITE_MAX_PER_MINUTE + 5)]
    assert SITE_MAX_PER_MINUTE == sum(kept)
    assert rejects.keep("b", rejected())
    assert rejects.keep("a", rejected(START_US + MINUTE_US))


def test_all_sites_together_have_a_limit_for_each_minute_and_in_bytes() -> None:
    rejects = Rejects(enabled=True)
    assert MAX_PER_MINUTE == sum(rejects.keep(f"site-{n}", rejected()) for n in range(MAX_PER_MINUTE + 5))
    rejects.take()
    large = rejected(START_US + MINUTE_US, bytes((1 << 20) - 1_000))  # almost 1 MiB, to leave room for its overhead
    assert MAX_WAITING_BYTES >> 20 == sum(rejects.keep("a", large) for _ in range(40))
    rejects.take()
    assert rejects.keep("a", large), "rejects that were taken wait no longer"


@pytest.mark.parametrize(
    ("minutes", "sites", "size_bytes"), [(60, 10, 0), (10, 10_000, 0), (10, 10, 90), (10, 10, 2_000)]
)
def test_rejects_of_an_hour_without_a_flush_stay_within_their_memory(minutes: int, sites: int, size_bytes: int) -> None:
    """Every minute brings as many rejects as it may keep, each with its own message: 600,000 empty bodies, for one.

    The short form has the limits of one worker of 20, and a twentieth of the rejects.
    """
    workers = times(20, 1)
    rejects = Rejects(enabled=True, slot=WorkerSlot(0, workers))
    sites = max(10, sites // workers)
    limit_bytes = MAX_WAITING_BYTES // workers

    def come(minute: int, n: int) -> bool:
        message = f"Validation error: page_path must have at most {n} characters"
        return rejects.keep(
            f"site-{n % sites}", Rejected(START_US + minute * MINUTE_US + n, message, bytes(size_bytes))
        )

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = sum(come(minute, n) for minute in range(minutes) for n in range(MAX_PER_MINUTE // workers))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < limit_bytes
    assert after - before > limit_bytes / 2, "the charge is not much more than the memory taken"
    assert kept == sum(len(group) for group in rejects.take().values())
    assert rejects.keep("site-0", rejected(START_US + 61 * MINUTE_US)), "rejects that were taken wait no longer"


class Unwalkable(Counter[str]):
    """A counter of sites that may be looked up, but not walked through."""

    def values(self) -> Any:
        raise AssertionError("this takes longer the more sites there are")

    __iter__ = items = total = values


def test_keeping_a_reject_never_walks_through_the_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding up 10,000 sites for each invalid event took as long as storing a valid one."""
    monkeypatch.setattr("collector.journal.flush.rejects.Counter", Unwalkable)
    rejects = Rejects(enabled=True)
    for minute in range(2):
        assert MAX_PER_MINUTE == sum(
            rejects.keep(f"site-{n % 100}", rejected(START_US + minute * MINUTE_US)) for n in range(MAX_PER_MINUTE + 5)
        )


def test_workers_share_the_limits() -> None:
    rejects = [Rejects(enabled=True, slot=WorkerSlot(worker, 4)) for worker in range(4)]
    kept = [each.keep("a", rejected()) for each in rejects for _ in range(SITE_MAX_PER_MINUTE)]
    assert SITE_MAX_PER_MINUTE == sum(kept)


def test_stores_of_several_workers_keep_below_one_limit(tmp_path: Path, writer: PartWriter) -> None:
    """A worker sees the files of others only when it measures the folder. It does so before its share is used up."""
    RejectedStore(writer, 10**9).write({(1, "a"): [rejected()]})
    (first,) = tmp_path.rglob("*.parquet")
    limit = 20 * first.stat().st_size
    stores = [RejectedStore(writer, limit, WorkerSlot(worker, 3)) for worker in range(3)]
    for day in range(2, times(14, 30)):
        for number, store in enumerate(stores):
            store.write({(day, f"site-{number}"): [rejected()]})
            assert sum(path.stat().st_size for path in (tmp_path / "rejected").rglob("*.parquet")) < 1.1 * limit
    assert not first.exists()


def test_disabled_keeps_nothing() -> None:
    rejects = Rejects(enabled=False)
    assert not rejects.keep("a", rejected())
    assert {} == rejects.take()


def test_written_by_site_and_day(tmp_path: Path, writer: PartWriter) -> None:
    rejects = Rejects(enabled=True)
    rejects.keep("a", rejected(body=b"\xff\x00{"))
    rejects.keep("a", rejected(START_US + US_PER_DAY))
    rejects.keep("b", rejected())
    assert 3 == RejectedStore(writer, 10**9).write(rejects.take())
    folders = sorted(str(path.parent.relative_to(tmp_path / "rejected")) for path in tmp_path.rglob("*.parquet"))
    assert ["site=a/date=2026-05-28", "site=a/date=2026-05-29", "site=b/date=2026-05-28"] == folders
    assert "\ufffd\x00{" == read_rows(tmp_path / "rejected" / "site=a")[0]["body"], (
        "bytes that are not UTF-8 stay visible"
    )


def test_oldest_files_are_deleted_first_when_over_the_limit(tmp_path: Path, writer: PartWriter) -> None:
    """The oldest day goes first, and within a day the oldest file. Files of earlier processes count too."""
    old_process = RejectedStore(writer, 10**9)
    for day in (3, 1, 2):
        for second in (1, 0):
            before = set(tmp_path.rglob("*.parquet"))
            old_process.write({(day, "a"): [rejected()]})
            (new,) = set(tmp_path.rglob("*.parquet")) - before
            os.utime(new, (second, second))
            new.rename(new.with_stem(f"day{day}-{second}"))
    size = max(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    RejectedStore(writer, 4 * size).write({(4, "b"): [rejected()]})
    left = sorted(path.stem for path in tmp_path.rglob("day*.parquet"))
    assert ["day2-1", "day3-0", "day3-1"] == left
    assert 1 == len(list((tmp_path / "rejected" / "site=b").rglob("*.parquet")))


async def test_only_events_that_break_the_contract_are_kept(tmp_path: Path) -> None:
    """Including those that a strict site answers with 422, but not events that a setting excludes."""
    sites: dict[str, dict[str, Any]] = {
        "demo": {"excluded_paths": ["/admin"]},
        "off": {"tracking": False},
        "strict": {"strict": True},
        "mine": {"excluded_ips": ["127.0.0.1"]},
    }
    async with running(config(tmp_path, sites)) as collector:
        await _send_one_of_each(collector)
        await collector.flush()
        assert [("Validation error: body is not one JSON object", "not JSON")] == [
            (row["message"], row["body"]) for row in collector.rejected("demo")
        ]
        assert ["demo", "strict"] == sorted(
            path.name.removeprefix("site=") for path in (tmp_path / "rejected").iterdir()
        )
        assert ["Validation error: visitor_id must have at least 8 characters"] == [
            row["message"] for row in collector.rejected("strict")
        ]


async def _send_one_of_each(collector: Running) -> None:
    statuses = [
        (await collector.post(event())).status,
        (await collector.post(event(page_path="/admin"))).status,
        (await collector.post(b"not JSON")).status,
        (await collector.post(event(), "off")).status,
        (await collector.post(event(visitor_id="short"), "strict")).status,
        (await collector.post(event(), "mine")).status,
        (await collector.post(event(), headers={"Origin": "http://localhost:3000"})).status,
    ]
    assert [201, 202, 202, 202, 422, 202, 202] == statuses
