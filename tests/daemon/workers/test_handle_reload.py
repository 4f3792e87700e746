"""Reloads and scrapes between a handle and its worker: each reply counts for its own request, however late."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from collector.config import Config
from collector.daemon.resources import DataDir
from collector.daemon.worker import Worker
from collector.daemon.workers.acceptor import CONNECTION_COUNTS_BYTES, ConnectionCounts
from collector.daemon.workers.child import SupervisorController
from collector.daemon.workers.handle import WorkerHandle, WorkerResources
from collector.edge.rate_limit import table_bytes
from collector.metrics import Metrics
from collector.portable import shared_memory
from tests.daemon.workers.peer import Peer, PlayedWorkers, peers
from tests.support import UNUSED_DATA_DIR, FakeClock, Running, config


@pytest.fixture
async def peered(tmp_path: Path, clock: FakeClock) -> AsyncIterator[tuple[WorkerHandle, Peer, PlayedWorkers]]:
    """The handle of a worker that serves, the worker's end of the channel, and its process."""
    data_dir = DataDir(tmp_path, os.open(tmp_path, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY))
    table, counts = shared_memory("table", table_bytes()), shared_memory("counts", CONNECTION_COUNTS_BYTES)
    async with PlayedWorkers.at(tmp_path / "played") as played:
        resources = WorkerResources(played.command, 2, data_dir, (data_dir.lock,), table, counts)
        handle = WorkerHandle(1, resources, lambda: config(tmp_path), Metrics(), clock, ConnectionCounts(counts, 2))
        running = asyncio.create_task(handle.run())
        peer = await played.next()
        peer.say("serving")
        async with asyncio.timeout(30):
            await handle.served.wait()
        yield handle, peer, played
        handle.drain()
        await played.die()
        await asyncio.wait([running], timeout=30)
        assert running.done()
    for descriptor in (data_dir.folder, data_dir.lock, table, counts):
        os.close(descriptor)


Peered = tuple[WorkerHandle, Peer, PlayedWorkers]


async def test_late_reply_is_not_taken_for_the_reply_to_the_next_reload(peered: Peered) -> None:
    handle, worker, _ = peered
    first = asyncio.create_task(handle.reload())
    given_up = await worker.asked("reload")
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(handle.reload())
    asked = await worker.asked("reload")
    worker.say("reloaded", given_up.get("number"))
    worker.say("heartbeat", [None, 1, 0, 0, 0])
    async with asyncio.timeout(30):
        while handle.stats.received != 1:  # noqa: ASYNC110 - true once it has handled both messages
            await asyncio.sleep(0.001)
    for _ in range(10):  # turns of the loop: more than a reload needs to see its reply
        await asyncio.sleep(0)
    assert not second.done()
    worker.say("reloaded", asked.get("number"))
    async with asyncio.timeout(30):
        await second


async def test_each_of_two_concurrent_reloads_gets_its_reply(peered: Peered) -> None:
    handle, worker, _ = peered
    reloads = [asyncio.create_task(handle.reload()) for _ in range(2)]
    numbers = [(await worker.asked("reload")).get("number") for _ in reloads]
    for number in numbers:
        worker.say("reloaded", number)
    async with asyncio.timeout(30):
        await asyncio.gather(*reloads)


async def test_reload_ends_when_the_worker_dies(peered: Peered) -> None:
    """The next worker starts with the new configuration."""
    handle, worker, played = peered
    reloads = [asyncio.create_task(handle.reload()) for _ in range(2)]
    for _ in reloads:
        await worker.asked("reload")
    await played.die()
    async with asyncio.timeout(30):
        await asyncio.gather(*reloads)
        await handle.reload()


async def test_late_metrics_are_the_reply_to_the_next_scrape_and_to_no_other(peered: Peered) -> None:
    """There is one request at a time, and a worker collects its metrics after it reads the request."""
    handle, worker, _ = peered
    counter = ["collector_parts", "counter", "", [["collector_parts_total", {}, 3.0]]]
    assert ([], []) == await handle.fetch_metrics(0)
    await worker.asked("metrics")
    later = asyncio.create_task(handle.fetch_metrics(30))
    await asyncio.sleep(0)
    worker.say("metrics", [counter])
    assert ([], [counter]) == await later
    last = asyncio.create_task(handle.fetch_metrics(30))
    await worker.asked("metrics")
    assert not last.done()
    worker.say("metrics", [counter])
    assert ([], [counter]) == await last


async def test_worker_answers_heartbeats_and_drains_while_a_disk_holds_up_its_reload(
    collector: Running, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the supervisor would kill it, as if it hung. Reloads take effect in order."""
    monkeypatch.setattr("collector.daemon.stop_signals.StopSignals.listening", lambda signals: nullcontext())
    held, taken = asyncio.Event(), list[str]()
    ours, supervisor = await peers()
    worker = Worker(config(collector.data_dir), collector.stages, UNUSED_DATA_DIR, clock)

    async def take_over(new: Config, labelled: Any) -> None:
        await held.wait()
        taken.extend(new.sites)

    monkeypatch.setattr(worker, "take_over", take_over)
    async with SupervisorController(ours, clock).attached(worker):
        for number, site in enumerate(("first", "second")):
            supervisor.say("reload", {"number": number, "labelled": []})
            supervisor.send(config(collector.data_dir, {site: {}}).model_dump_json().encode())
        supervisor.say("heartbeat")
        supervisor.say("drain")
        assert None is (await supervisor.asked("heartbeat"))[0]
        supervisor.say("heartbeat")
        await supervisor.asked("heartbeat")
        assert (True, []) == (worker.is_stopping, taken)
        held.set()
        assert [0, 1] == [await supervisor.asked("reloaded") for _ in range(2)]
    assert ["first", "second"] == taken
    await supervisor.close()


async def test_worker_validates_a_configuration_in_a_thread(
    collector: Running, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reply has the number of the request."""
    loop = asyncio.get_running_loop()

    class Patient:
        """Validates only if the loop runs meanwhile."""

        @staticmethod
        def model_validate_json(text: bytes) -> Config:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)
            return Config.model_validate_json(text)

    monkeypatch.setattr("collector.daemon.workers.child.Config", Patient)
    monkeypatch.setattr("collector.daemon.stop_signals.StopSignals.listening", lambda signals: nullcontext())
    ours, supervisor = await peers()
    new = config(collector.data_dir, {"new": {}})
    async with SupervisorController(ours, clock).attached(Worker(new, collector.stages, UNUSED_DATA_DIR, clock)):
        supervisor.say("reload", {"number": 7, "labelled": ["new"]})
        supervisor.send(new.model_dump_json().encode())
        assert 7 == await supervisor.asked("reloaded")
    assert ["new"] == list(collector.stages.decider.rules.sites)
    await supervisor.close()
