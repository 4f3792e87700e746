"""Rejects: what is kept, and the bounds that keep it small."""

import os
import time
import tracemalloc
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


def test_site_has_a_bound_each_minute_and_leaves_the_rest_to_others() -> None:
    rejects = Rejects(enabled=True)
    kept = [rejects.keep("a", rejected()) for _ in range(SITE_MAX_PER_MINUTE + 5)]
    assert SITE_MAX_PER_MINUTE == sum(kept)
    assert rejects.keep("b", rejected())
    assert rejects.keep("a", rejected(START_US + MINUTE_US))


def test_all_sites_together_are_bounded_a_minute_and_in_bytes() -> None:
    rejects = Rejects(enabled=True)
    assert MAX_PER_MINUTE == sum(rejects.keep(f"site-{n}", rejected()) for n in range(MAX_PER_MINUTE + 5))
    rejects.take()
    large = rejected(START_US + MINUTE_US, bytes((1 << 20) - 1_000))  # and what else it takes
    assert MAX_WAITING_BYTES >> 20 == sum(rejects.keep("a", large) for _ in range(40))
    rejects.take()
    assert rejects.keep("a", large), "what was taken waits no more"


@pytest.mark.parametrize(
    ("minutes", "sites", "size_bytes"), [(60, 10, 0), (10, 10_000, 0), (10, 10, 90), (10, 10, 2_000)]
)
def test_hour_without_a_flush_takes_no_more_memory_than_the_bound(minutes: int, sites: int, size_bytes: int) -> None:
    """600,000 empty bodies; or fewer of other kinds. As many come as a minute may keep, each with words of its own."""
    rejects = Rejects(enabled=True)

    def come(minute: int, n: int) -> bool:
        message = f"Validation error: page_path must have at most {n} characters"
        return rejects.keep(
            f"site-{n % sites}", Rejected(START_US + minute * MINUTE_US + n, message, bytes(size_bytes))
        )

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = sum(come(minute, n) for minute in range(minutes) for n in range(MAX_PER_MINUTE))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < MAX_WAITING_BYTES
    assert after - before > MAX_WAITING_BYTES / 2, "and it is charged for no more than it takes, or nearly so"
    assert kept == sum(len(group) for group in rejects.take().values())
    assert rejects.keep("site-0", rejected(START_US + 61 * MINUTE_US)), "what was taken waits no more"


def test_cost_of_an_invalid_event_does_not_grow_with_the_sites() -> None:
    def cost_s(sites: int) -> float:
        """Of 5,000 invalid events behind those of so many sites, the bound of the minute not reached."""
        rejects, each = Rejects(enabled=True), rejected()
        for n in range(sites):
            rejects.keep(f"site-{n}", each)
        started = time.process_time()
        for n in range(5_000):
            rejects.keep(f"site-{n % 5}", each)
        return time.process_time() - started

    assert min(cost_s(5_000) for _ in range(3)) < 4 * min(cost_s(5) for _ in range(3))


def test_workers_share_the_bounds() -> None:
    rejects = [Rejects(enabled=True, slot=WorkerSlot(worker, 4)) for worker in range(4)]
    kept = [each.keep("a", rejected()) for each in rejects for _ in range(SITE_MAX_PER_MINUTE)]
    assert SITE_MAX_PER_MINUTE == sum(kept)


def test_stores_of_several_workers_keep_below_one_limit(tmp_path: Path, writer: PartWriter) -> None:
    """Each knows what the others left only when it looks; it looks before its part of the room is gone."""
    RejectedStore(writer, 10**9).write({(1, "a"): [rejected()]})
    (first,) = tmp_path.rglob("*.parquet")
    limit = 20 * first.stat().st_size
    stores = [RejectedStore(writer, limit, WorkerSlot(worker, 3)) for worker in range(3)]
    for day in range(2, 30):
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
    assert "\ufffd\x00{" == read_rows(tmp_path / "rejected" / "site=a")[0]["body"], "bytes that are no UTF-8 are shown"


def test_oldest_days_go_first_when_it_is_too_much(tmp_path: Path, writer: PartWriter) -> None:
    """Also what an earlier process left counts, and within a day the older files go first."""
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


async def test_only_what_breaks_the_contract_is_kept(tmp_path: Path) -> None:
    """What is excluded on purpose is nobody's mistake; a strict site's 422s are."""
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
