"""Daily keys in a collector that serves: nothing blocks the loop, and events are refused for a moment at most."""

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
    """Another process holds the folder's lock until the block ends. At most 15 s, or a blocked loop would hang."""
    command = ["timeout", "15", sys.executable, "-c", HOLD, str(folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert "held\n" == holder.stdout.readline()
        yield holder
    finally:
        holder.communicate()


async def test_lock_on_the_folder_does_not_block_the_loop(tmp_path: Path, clock: FakeClock) -> None:
    """Not for the first event, not at midnight, and not after a reload."""
    async with running(config(tmp_path / "data", privacy=HASH), clock) as collector:
        with locked(collector.data_dir) as holder:
            statuses = [(await collector.post(event())).status]
            clock.advance(86_400)
            statuses.append((await collector.post(event())).status)
            worker = Worker(config(tmp_path / "data", privacy=HASH), collector.stages, UNUSED_DATA_DIR, clock)
            await worker.take_over(config(tmp_path / "data", privacy=HASH))
            statuses.append((await collector.post(event())).status)
            assert holder.poll() is None, "the lock is still held"
        await collector.flush()
        hashes = [row["client_ip"] for row in collector.rows()]
    assert [201, 201, 201] == statuses
    assert hashes[0] != hashes[1] == hashes[2]


async def test_reload_to_hashes_makes_the_key_before_it_takes_effect(collector: Running) -> None:
    worker = Worker(config(collector.data_dir), collector.stages, UNUSED_DATA_DIR, collector.clock)
    assert 201 == (await collector.post(event())).status
    await worker.take_over(config(collector.data_dir, privacy=HASH))
    assert needs_keys(collector.stages.decider.rules.client_ip)
    assert 201 == (await collector.post(event())).status
    await worker.take_over(config(collector.data_dir))
    assert 201 == (await collector.post(event())).status
    await collector.flush()
    assert [0, 32, 0] == [len(row["client_ip"] or "") for row in collector.rows()]


async def test_missing_key_matters_only_to_pixels_if_addresses_are_not_hashed(
    collector: Running, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector stays ready and stores events. With `hash`, it would not be ready."""

    def fails(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    stages = collector.stages
    worker = Worker(config(collector.data_dir), stages, UNUSED_DATA_DIR, clock)
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", fails)
        clock.us += 3 * US_PER_DAY
        stages.keys.tend()
        assert "no key for today: [Errno 28] No space left on device" == stages.keys.missing_reason
        assert stages.unready_reason() is None
        assert 201 == (await collector.post(event())).status
        async with collector.client.get(f"{collector.url}/public/demo/p.gif") as pixel:
            assert (200, "unavailable") == (pixel.status, pixel.headers["Collect-Reason"])
        await worker.take_over(config(collector.data_dir, privacy=HASH))
        assert stages.keys.missing_reason == stages.unready_reason()
    stages.keys.tend()
    assert stages.unready_reason() is None


@pytest.mark.parametrize("policy", ["none", "truncate", "full"])
async def test_keys_are_made_and_deleted_by_day_whatever_the_policy(
    tmp_path: Path, clock: FakeClock, policy: str
) -> None:
    """Without any event, and in a data_dir of a version that made no key."""

    def days() -> list[str]:
        return sorted(path.name for path in (tmp_path / "data").glob("client_ip*"))

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "client_ip-2026-05-01.key").write_bytes(bytes(40))
    async with running(config(tmp_path / "data", privacy={"client_ip": policy}), clock) as collector:
        assert ["client_ip-2026-05-28.key", "client_ip-2026-05-29.key"] == days()
        clock.advance(86_400)
        collector.stages.keys.tend()
        assert ["client_ip-2026-05-29.key", "client_ip-2026-05-30.key"] == days()


@pytest.fixture
async def hashing(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Running]:
    async with running(config(tmp_path / "data", privacy=HASH), clock) as collector:
        yield collector


async def test_events_are_accepted_at_once_after_a_clock_jump(hashing: Running, clock: FakeClock) -> None:
    """The clock stands still then, so not even a second passes: an event that misses the key has it made."""
    worker = Worker(config(hashing.data_dir, privacy=HASH), hashing.stages, UNUSED_DATA_DIR, clock)
    tending = asyncio.create_task(worker._tend_keys())
    clock.us += 3 * US_PER_DAY
    assert 503 == (await hashing.post(event())).status
    async with asyncio.timeout(30):
        while (await hashing.post(event())).status != 201:  # noqa: ASYNC110 - a thread makes the key
            await asyncio.sleep(0.001)
    tending.cancel()
    await asyncio.wait([tending])


async def test_key_that_cannot_be_stored_makes_events_refused_and_is_not_retried_for_each(
    hashing: Running, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full or failing disk causes 503 and not 500. `/readyz` gives the reason, and service resumes on its own."""
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
    await ticks(lambda: hashing.stages.keys.missing_reason is not None)
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
