"""Daily keys in a collector that serves: the loop waits for nobody, and an event is refused for a moment at most."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.clock import US_PER_DAY
from collector.daemon.worker import Worker
from collector.ingest.enrich import needs_keys
from tests.support import UNUSED_DATA_DIR, FakeClock, Running, config, event, running

HASH = {"client_ip": "hash"}

HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process holds the folder's lock until the block is left, or for 15 s: a loop that waits must not hang."""
    command = ["timeout", "15", sys.executable, "-c", HOLD, str(folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert "held\n" == holder.stdout.readline()
        yield holder
    finally:
        holder.communicate()


async def test_nobody_holds_the_loop_who_holds_a_lock_on_the_folder(tmp_path: Path, clock: FakeClock) -> None:
    """Neither at the first event, nor at midnight, nor behind a reload."""
    async with running(config(tmp_path / "data", privacy=HASH), clock) as collector:
        with locked(collector.data_dir) as holder:
            statuses = [(await collector.post(event())).status]
            clock.advance(86_400)
            statuses.append((await collector.post(event())).status)
            worker = Worker(config(tmp_path / "data", privacy=HASH), collector.stages, UNUSED_DATA_DIR, clock)
            await worker.take_over(config(tmp_path / "data", privacy=HASH))
            statuses.append((await collector.post(event())).status)
            assert holder.poll() is None, "the lock is held still"
        await collector.flush()
        hashes = [row["client_ip"] for row in collector.rows()]
    assert [201, 201, 201] == statuses
    assert hashes[0] != hashes[1] == hashes[2]


async def test_reload_that_wants_hashes_has_the_key_before_it_is_in_force(collector: Running) -> None:
    worker = Worker(config(collector.data_dir), collector.stages, UNUSED_DATA_DIR, collector.clock)
    assert 201 == (await collector.post(event())).status
    await worker.take_over(config(collector.data_dir, privacy=HASH))
    assert needs_keys(collector.stages.decider.rules.client_ip)
    assert 201 == (await collector.post(event())).status
    await worker.take_over(config(collector.data_dir))
    assert 201 == (await collector.post(event())).status
    await collector.flush()
    assert [0, 32, 0] == [len(row["client_ip"] or "") for row in collector.rows()]


@pytest.fixture
async def hashing(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Running]:
    async with running(config(tmp_path / "data", privacy=HASH), clock) as collector:
        yield collector


async def test_clock_that_leaps_costs_no_more_than_the_moment_until_it_is_seen(
    hashing: Running, clock: FakeClock
) -> None:
    """No second has to pass: the event that missed the key has it made."""
    worker = Worker(config(hashing.data_dir, privacy=HASH), hashing.stages, UNUSED_DATA_DIR, clock)
    tending = asyncio.create_task(worker._tend_keys())
    clock.us += 3 * US_PER_DAY
    statuses = [(await hashing.post(event())).status]
    async with asyncio.timeout(30):
        while hashing.stages.keys.missed.is_set() or not has_key(hashing):  # noqa: ASYNC110 - a thread makes it so
            await asyncio.sleep(0.001)
    statuses.append((await hashing.post(event())).status)
    tending.cancel()
    await asyncio.wait([tending])
    assert [503, 201] == statuses


def has_key(collector: Running) -> bool:
    return collector.clock.now_us() // US_PER_DAY in collector.stages.keys._keys


async def test_key_that_cannot_be_kept_is_told_refuses_and_is_not_tried_for_each_event(
    hashing: Running, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or failing disk is a 503 and no fault, `/readyz` says it, and service resumes by itself."""
    tried = 0
    link = os.link

    def fails(*arguments: object, **keywords: object) -> None:
        nonlocal tried
        tried += 1
        raise OSError(28, "No space left on device")

    async def ticks(until: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not until():
                clock.advance(1)
                await asyncio.sleep(0.01)

    worker = Worker(config(hashing.data_dir, privacy=HASH), hashing.stages, UNUSED_DATA_DIR, clock)
    monkeypatch.setattr(os, "link", fails)
    clock.us += 3 * US_PER_DAY
    tending = asyncio.create_task(worker._tend_keys())
    await ticks(lambda: hashing.stages.keys.blocked_reason is not None)
    assert "no key for today: [Errno 28] No space left on device" == hashing.stages.unready_reason()
    assert 0 == hashing.stages.gauges()["collector_ready"][1]
    before = tried
    assert {503} == {(await hashing.post(event())).status for _ in range(10)}
    assert before == tried
    monkeypatch.setattr(os, "link", link)
    await ticks(lambda: hashing.stages.unready_reason() is None)
    assert 201 == (await hashing.post(event())).status
    tending.cancel()
    await asyncio.wait([tending])
