"""A reload that is handed to a worker: who answers which, in whatever order and however late."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from collector.config import Config
from collector.daemon.worker import Worker
from collector.daemon.workers.acceptor import CONNECTION_COUNTS_BYTES, ConnectionCounts
from collector.daemon.workers.channel import Channel
from collector.daemon.workers.child import SupervisorController
from collector.daemon.workers.handle import WorkerHandle, WorkerResources
from collector.edge.rate_limit import table_bytes
from collector.metrics import Metrics
from collector.portable import shared_memory
from tests.support import UNUSED_DATA_DIR, FakeClock, Running, config


class Peer:
    """The other end of a control channel, in the test's own hands."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def frame(self) -> Any:
        async with asyncio.timeout(30):
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            return json.loads(await self._reader.readexactly(length))

    async def asked(self, kind: str) -> Any:
        """The content of the next message of that kind; what else comes is passed over."""
        while True:
            match await self.frame():
                case [str(found), content] if found == kind:
                    return content

    def say(self, kind: str, content: Any = None) -> None:
        self.send(json.dumps([kind, content]).encode())

    def send(self, frame: bytes) -> None:
        self._writer.write(len(frame).to_bytes(4, "big") + frame)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def peers() -> tuple[socket.socket, Peer]:
    ours, theirs = socket.socketpair()
    return ours, Peer(*await asyncio.open_unix_connection(sock=theirs))


@pytest.fixture
async def peered(tmp_path: Path, clock: FakeClock) -> AsyncIterator[tuple[WorkerHandle, Peer]]:
    """A handle, and its worker's end of the channel."""
    table, connection_counts = (
        shared_memory("table", table_bytes()),
        shared_memory("connection_counts", CONNECTION_COUNTS_BYTES),
    )
    resources = WorkerResources([], 2, UNUSED_DATA_DIR, os.open(os.devnull, os.O_RDONLY), table, connection_counts)
    handle = WorkerHandle(
        1, resources, lambda: config(tmp_path), Metrics(), clock, ConnectionCounts(connection_counts, 2)
    )
    ours, worker = await peers()
    channel = handle._channel = await Channel.over(ours)
    handle.serves = True
    listening = asyncio.create_task(handle._listen(channel))
    yield handle, worker
    await worker.close()
    await listening
    channel.close()
    await turns()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


async def test_late_answer_is_not_taken_for_that_of_the_next_reload(peered: tuple[WorkerHandle, Peer]) -> None:
    handle, worker = peered
    first = asyncio.create_task(handle.reload())
    given_up = await worker.asked("reload")
    first.cancel()
    await asyncio.wait([first])
    second = asyncio.create_task(handle.reload())
    asked = await worker.asked("reload")
    worker.say("reloaded", given_up.get("number"))
    worker.say("heartbeat", [None, 1, 0, 0, 0])
    async with asyncio.timeout(30):
        while handle.stats.received != 1:  # noqa: ASYNC110 - then it has heard both
            await asyncio.sleep(0.001)
    await turns()
    assert not second.done()
    worker.say("reloaded", asked.get("number"))
    async with asyncio.timeout(30):
        await second


async def test_two_reloads_at_once_are_answered_each(peered: tuple[WorkerHandle, Peer]) -> None:
    handle, worker = peered
    reloads = [asyncio.create_task(handle.reload()) for _ in range(2)]
    numbers = [(await worker.asked("reload")).get("number") for _ in reloads]
    for number in numbers:
        worker.say("reloaded", number)
    async with asyncio.timeout(30):
        await asyncio.gather(*reloads)


async def test_worker_that_dies_has_nothing_to_reload_any_more(peered: tuple[WorkerHandle, Peer]) -> None:
    """The next one starts with the new configuration."""
    handle, worker = peered
    reloads = [asyncio.create_task(handle.reload()) for _ in range(2)]
    for _ in reloads:
        await worker.asked("reload")
    handle._worker_died()
    async with asyncio.timeout(30):
        await asyncio.gather(*reloads)
        await handle.reload()


async def test_metrics_that_come_late_answer_the_next_scrape_and_none_twice(peered: tuple[WorkerHandle, Peer]) -> None:
    """There is one request at a time. A worker looks its metrics up after it was asked."""
    handle, worker = peered
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


async def test_worker_answers_heartbeats_and_drains_while_a_disk_holds_its_reload(
    collector: Running, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be taken for one that hangs, and killed. Reloads are taken over in their order."""
    monkeypatch.setattr("collector.daemon.stop_signals.StopSignals.listen", lambda signals: None)
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
    await turns()


async def test_worker_reads_a_configuration_beside_its_loop(
    collector: Running, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has the number of the question."""
    loop = asyncio.get_running_loop()

    class Patient:
        """Reads only when the loop has turned meanwhile."""

        @staticmethod
        def model_validate_json(text: bytes) -> Config:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)
            return Config.model_validate_json(text)

    monkeypatch.setattr("collector.daemon.workers.child.Config", Patient)
    monkeypatch.setattr("collector.daemon.stop_signals.StopSignals.listen", lambda signals: None)
    ours, supervisor = await peers()
    new = config(collector.data_dir, {"new": {}})
    async with SupervisorController(ours, clock).attached(Worker(new, collector.stages, UNUSED_DATA_DIR, clock)):
        supervisor.say("reload", {"number": 7, "labelled": ["new"]})
        supervisor.send(new.model_dump_json().encode())
        assert 7 == await supervisor.asked("reloaded")
    assert ["new"] == list(collector.stages.decider.rules.sites)
    await supervisor.close()
    await turns()
