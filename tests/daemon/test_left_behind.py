"""Blocks that fail or are cancelled: they clean up what they started, and the failure reaches the caller."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.admin import serving_admin
from collector.daemon.resources import listen
from collector.daemon.sd_notify import Manager
from collector.daemon.status import Reporter, Stats
from collector.daemon.wiring import build_stages
from collector.daemon.worker import Worker, accept_all
from collector.daemon.workers.acceptor import CONNECTION_COUNTS_BYTES, ConnectionCounts
from collector.daemon.workers.child import SupervisorController, accepting_with_others
from collector.portable import shared_memory
from collector.worker_slot import WorkerSlot
from tests.support import UNUSED_DATA_DIR, FakeClock, Running, config


class Failed(Exception):
    """Raised inside a block."""


async def fail() -> None:
    raise Failed


async def be_cancelled() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


BODIES = pytest.mark.parametrize(("body", "failure"), [(fail, Failed), (be_cancelled, asyncio.CancelledError)])


async def fails(block: Any, body: Any, failure: type[BaseException]) -> None:
    """Run the body inside the block, in its own task, and check that its failure comes out."""

    async def run() -> None:
        async with block:
            await body()

    task = asyncio.create_task(run())
    await asyncio.wait([task], timeout=30)
    with pytest.raises(failure):
        task.result()


def others() -> set[asyncio.Task[Any]]:
    """Every task except the test's own."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


@pytest.fixture
def signals() -> Iterator[None]:
    """Restores the signal handlers that the block replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@BODIES
async def test_admin_listener_is_closed(collector: Running, body: Any, failure: type[BaseException]) -> None:
    bound = listen("127.0.0.1", 0, "admin")
    address = bound.getsockname()
    await fails(serving_admin(collector.stages, bound), body, failure)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address).close()


async def test_admin_listener_that_cannot_start_is_cleaned_up(
    collector: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []

    async def cleanup(runner: Any) -> None:
        cleaned.append("runner")

    monkeypatch.setattr("aiohttp.web.AppRunner.cleanup", cleanup)
    closed = socket.socket()
    closed.close()
    block = serving_admin(collector.stages, closed)
    with pytest.raises(OSError):  # noqa: PT011 - any error will do
        await block.__aenter__()
    assert ["runner"] == cleaned


@BODIES
async def test_reports_to_the_manager_stop(
    tmp_path: Path, clock: FakeClock, body: Any, failure: type[BaseException]
) -> None:
    before = others()
    reporter = Reporter(Manager(), clock, tmp_path, Stats, list)
    await fails(reporter.reporting(), body, failure)
    assert before == others()


@BODIES
async def test_channel_to_the_supervisor_is_closed(
    tmp_path: Path, clock: FakeClock, signals: None, body: Any, failure: type[BaseException]
) -> None:
    before = others()
    ours, theirs = socket.socketpair()
    worker = Worker(config(tmp_path), build_stages(config(tmp_path), clock), UNUSED_DATA_DIR, clock)
    with ours:
        ours.settimeout(10)
        await fails(SupervisorController(theirs, clock).attached(worker), body, failure)
        assert b"" == await asyncio.to_thread(ours.recv, 1), "the supervisor sees the end of the channel"
    assert before == others()


async def test_channel_is_closed_after_a_message_that_cannot_be_decoded(
    tmp_path: Path, clock: FakeClock, signals: None
) -> None:
    ours, theirs = socket.socketpair()
    worker = Worker(config(tmp_path), build_stages(config(tmp_path), clock), UNUSED_DATA_DIR, clock)
    with ours:
        ours.settimeout(10)
        controller = SupervisorController(theirs, clock)
        async with controller.attached(worker):
            ours.sendall(b"\0\0\0\4what")
            await asyncio.wait([controller._listening], timeout=10)
        assert b"" == await asyncio.to_thread(ours.recv, 1)


@asynccontextmanager
async def public(data_dir: Path, clock: FakeClock, *, several: bool) -> AsyncIterator[tuple[Worker, socket.socket]]:
    """A worker that is ready to serve, and its socket."""
    stages = build_stages(config(data_dir), clock)
    stages.open()
    bound = listen("127.0.0.1", 0, "server")
    bound.setblocking(False)
    counts = ConnectionCounts(shared_memory("connection_counts", CONNECTION_COUNTS_BYTES), 1)
    accept = accepting_with_others(counts, WorkerSlot(0, 1)) if several else accept_all
    try:
        yield Worker(config(data_dir), stages, UNUSED_DATA_DIR, clock, accept), bound
    finally:
        bound.close()
        await stages.journal.close()


@BODIES
@pytest.mark.parametrize("several", [False, True])
async def test_public_listener_drains(
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    several: bool,
    body: Any,
    failure: type[BaseException],
) -> None:
    """Idle connections are closed at once, and no other is accepted."""
    monkeypatch.setattr("collector.daemon.worker.LAST_REQUESTS_S", 0)
    monkeypatch.setattr("collector.daemon.worker.warm_up", lambda: None)
    monkeypatch.setattr(clock, "sleep", asyncio.sleep)
    async with public(tmp_path, clock, several=several) as (worker, bound):
        opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

        async def connect_and(end: Any) -> None:
            opened.append(await asyncio.open_connection(*bound.getsockname()))
            opened[0][1].write(b"OPTIONS /public/demo/analytics/collect HTTP/1.1\r\nHost: x\r\n\r\n")
            await opened[0][0].readuntil(b"\r\n\r\n")
            await end()

        await fails(worker._serving_public([bound]), lambda: connect_and(body), failure)
        (reader, writer) = opened[0]
        async with asyncio.timeout(10):
            assert b"" == await reader.read()
        writer.close()
        assert worker.stages.decider.in_flight.draining


async def test_exit_at_once_after_the_drain_has_the_exit_code_of_the_drain(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine a repeat of the first signal may arrive over a second later and count as a second signal."""
    monkeypatch.setattr("collector.daemon.worker.os._exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    async with public(tmp_path, clock, several=False) as (worker, _):
        with pytest.raises(SystemExit) as before:
            worker.exit_at_once()
        worker._exit_code = 0
        with pytest.raises(SystemExit) as behind:
            worker.exit_at_once()
    assert (1, 0) == (before.value.code, behind.value.code)
