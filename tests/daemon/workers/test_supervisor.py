"""The supervisor and its parts: when it replaces a worker, when it is ready, what it starts."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.resources import DataDir
from collector.daemon.serve import command, processes
from collector.daemon.workers.acceptor import CONNECTION_COUNTS_BYTES, ConnectionCounts
from collector.daemon.workers.channel import Channel, encode, receive_first
from collector.daemon.workers.handle import (
    HEARTBEATS_UNANSWERED,
    HEARTBEATS_UNTIL_SERVING,
    STEADY_S,
    WorkerHandle,
    WorkerResources,
    describe_exit,
)
from collector.daemon.workers.supervisor import Supervisor
from collector.edge.rate_limit import table_bytes
from collector.metrics import Metrics
from collector.portable import shared_memory
from collector.worker_slot import WorkerSlot
from tests.daemon.workers.peer import Peer, PlayedWorkers
from tests.support import FakeClock, config

# A worker that reports that it serves and answers every heartbeat, until the supervisor makes it drain.
WORKER = """
import os, socket, sys
from pathlib import Path
from collector.daemon.workers.channel import encode, receive_first
end = socket.socket(fileno=int(sys.argv[-1]))
{first}
end.sendall(encode("serving"))
heartbeats = 0
while message := receive_first(end):
    if message[0] == "heartbeat":
        heartbeats += 1
        end.sendall(encode("heartbeat", [None, heartbeats, 0, 0, 0]))
    if message[0] == "drain": break
"""


class SleepsListed(FakeClock):
    """A clock that lists how long its users have asked to sleep, so that a test can wait until they do."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await super().sleep(seconds)


@pytest.fixture
def clock() -> SleepsListed:
    return SleepsListed()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def resources(tmp_path: Path) -> Iterator[WorkerResources]:
    with socket.create_server(("127.0.0.1", 0)) as public, ExitStack() as opened:
        descriptors = [
            os.open(tmp_path, os.O_RDONLY),
            os.open(os.devnull, os.O_RDONLY),
            shared_memory("table", table_bytes()),
            shared_memory("connection_counts", CONNECTION_COUNTS_BYTES),
        ]
        for descriptor in descriptors:
            opened.callback(os.close, descriptor)
        folder, lock, table, connection_counts = descriptors
        yield WorkerResources([], 2, DataDir(tmp_path, folder, lock), (public.fileno(),), table, connection_counts)


def worker_command(first: str = "") -> list[str]:
    return [sys.executable, "-c", WORKER.format(first=first)]


NewHandle = Callable[..., WorkerHandle]


@pytest.fixture
def new_handle(resources: WorkerResources, tmp_path: Path, clock: FakeClock, metrics: Metrics) -> NewHandle:
    """Make the handle of worker 1: of WORKER with some code before it serves, or of another command."""

    def make(first: str = "", command: list[str] | None = None) -> WorkerHandle:
        started_with = replace(resources, command=command or worker_command(first))
        connection_counts = ConnectionCounts(resources.connection_counts, resources.workers)
        return WorkerHandle(1, started_with, lambda: config(tmp_path), metrics, clock, connection_counts)

    return make


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


Start = Callable[[WorkerHandle], asyncio.Task[None]]


@pytest.fixture
async def started() -> AsyncIterator[Start]:
    """Run a handle until the test ends."""
    tasks: list[tuple[WorkerHandle, asyncio.Task[None]]] = []

    def start(handle: WorkerHandle) -> asyncio.Task[None]:
        tasks.append((handle, asyncio.create_task(handle.run())))
        return tasks[-1][1]

    yield start
    for handle, task in tasks:
        handle.drain()
        handle.kill()
        await asyncio.wait([task], timeout=30)


@pytest.fixture
async def played(tmp_path: Path) -> AsyncIterator[PlayedWorkers]:
    async with PlayedWorkers.at(tmp_path / "played") as workers:
        yield workers


async def serving(played: PlayedWorkers, handle: WorkerHandle) -> Peer:
    """The peer of the next worker, once the handle knows that it serves."""
    peer = await played.next()
    peer.say("serving")
    await until(lambda: handle.serves)
    return peer


def restarts(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("collector_worker_restarts_total")


async def test_worker_that_answers_heartbeats_lives_and_one_that_does_not_is_killed(
    new_handle: NewHandle, metrics: Metrics, started: Start
) -> None:
    handle = new_handle()
    started(handle)
    await until(lambda: handle.serves)
    for number in range(1, 3 * HEARTBEATS_UNANSWERED + 1):
        handle.heartbeat()
        await until(lambda number=number: handle.stats.received == number)  # type: ignore[misc]
    assert 0 == restarts(metrics)
    for _ in range(HEARTBEATS_UNANSWERED + 1):  # in one turn of the loop, so no reply can arrive
        handle.heartbeat()
    await until(lambda: restarts(metrics) == 1)


async def test_worker_that_keeps_dying_is_replaced_at_once_and_then_later_and_later(
    new_handle: NewHandle, clock: SleepsListed, started: Start, caplog: pytest.LogCaptureFixture
) -> None:
    task = started(new_handle(first="sys.exit(3)"))
    delays_s = [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    for number, delay_s in enumerate(delays_s, 1):
        await until(lambda number=number: len(clock.sleeps) == number)  # type: ignore[misc]
        when = f"in {delay_s:g} s" if delay_s else "at once"
        assert f"worker 1 died (exit code 3); replacing it {when}" == caplog.messages[-1]
        clock.advance(delay_s)
    assert delays_s == clock.sleeps
    assert not task.done()


async def test_worker_that_served_long_is_replaced_at_once_each_time(
    new_handle: NewHandle, clock: SleepsListed, started: Start
) -> None:
    handle = new_handle()
    started(handle)
    for number in (1, 2, 3):
        await until(lambda: handle.serves)
        clock.advance(STEADY_S + 1)
        handle.kill()
        await until(lambda number=number: len(clock.sleeps) == number)  # type: ignore[misc]
        assert not handle.serves
        clock.advance(0)
    assert [0, 0, 0] == clock.sleeps


def test_every_exit_code_and_signal_has_a_description() -> None:
    """The supervisor survives the death of a worker, whatever the exit code or signal."""
    assert ["exit code 0", "exit code 3"] == [describe_exit(0), describe_exit(3)]
    assert ["killed by SIGKILL", "killed by signal 35"] == [describe_exit(-9), describe_exit(-35)]
    assert all(describe_exit(-number) for number in range(1, signal.NSIG))


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> list[WorkerHandle]:
    """The handles that supervisors make, in order."""
    made: list[WorkerHandle] = []

    class Kept(WorkerHandle):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr("collector.daemon.workers.supervisor.WorkerHandle", Kept)
    return made


async def test_supervisor_is_ready_while_one_worker_accepts_events(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock, handles: list[WorkerHandle]
) -> None:
    supervisor = Supervisor(config(tmp_path), tmp_path, resources, clock)
    one, other = handles
    assert "no worker is serving" == supervisor.unready_reason()
    one.serves = True
    assert supervisor.unready_reason() is None
    one.unready_reason = "the journal is full"
    assert "the journal is full" == supervisor.unready_reason()
    other.serves = True
    assert supervisor.unready_reason() is None


@contextmanager
def signals_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_second_signal_kills_workers_that_do_not_respond(
    resources: WorkerResources,
    tmp_path: Path,
    clock: FakeClock,
    handles: list[WorkerHandle],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They ignore the commands to drain and to exit. A repeat of the first signal does not count as a second one."""
    monkeypatch.setattr("collector.daemon.workers.supervisor.SECOND_SIGNAL_S", 0.01)
    drained = tmp_path / "drain messages"
    deaf = f"""
end.sendall(encode("serving"))
while message := receive_first(end):
    if message[0] == "drain":
        with Path({str(drained)!r}).open("a") as file: file.write("x")
"""
    supervisor = Supervisor(config(tmp_path), tmp_path, replace(resources, command=worker_command(deaf)), clock)
    with (
        signals_restored(),
        socket.create_server(("127.0.0.1", 0)) as public,
        socket.create_server(("127.0.0.1", 0)) as admin,
    ):
        running = asyncio.create_task(supervisor.run([public], admin))
        await until(lambda: all(handle.serves for handle in handles))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: drained.exists() and len(drained.read_text()) == 2)
        assert not running.done()
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(30):
            assert 1 == await running
    said = [message for message in caplog.messages if "did not drain" in message]
    assert [f"worker {number} did not drain: killed by SIGKILL" for number in (0, 1)] == said


async def test_scrape_without_any_worker_shows_not_ready(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock
) -> None:
    text = (await Supervisor(config(tmp_path), tmp_path, resources, clock).metrics_page()).decode()
    assert "collector_ready 0.0\n" in text
    assert 'collector_workers{state="configured"} 2.0' in text


GAUGE = ["collector_connections", "gauge", "", [["collector_connections", {}, 7.0]]]
COUNTER = ["collector_parts", "counter", "", [["collector_parts_total", {}, 3.0]]]


async def fetched(handle: WorkerHandle, peer: Peer) -> Any:
    """What a scrape gets from a worker that answers it."""
    scrape = asyncio.create_task(handle.fetch_metrics(30))
    await peer.asked("metrics")
    peer.say("metrics", [GAUGE, COUNTER])
    return await scrape


async def test_concurrent_scrapes_all_get_fresh_metrics(
    new_handle: NewHandle, started: Start, played: PlayedWorkers
) -> None:
    """One begins in each turn of the loop, so some begin just as the reply to another arrives."""
    handle = new_handle(command=played.command)
    started(handle)
    peer = await serving(played, handle)

    async def answer() -> None:
        while True:
            await peer.asked("metrics")
            peer.say("metrics", [GAUGE, COUNTER])

    answering = asyncio.create_task(answer())
    scrapes = []
    for _ in range(100):
        scrapes.append(asyncio.create_task(handle.fetch_metrics(30)))
        await asyncio.sleep(0)
    assert [([], [GAUGE, COUNTER])] * 100 == await asyncio.gather(*scrapes)
    answering.cancel()
    await asyncio.wait([answering])


async def test_counters_of_a_worker_that_answers_no_scrape_are_kept(
    new_handle: NewHandle, started: Start, played: PlayedWorkers
) -> None:
    """Otherwise a counter would fall. Gauges are unknown then. A death changes nothing, even during a scrape."""
    handle = new_handle(command=played.command)
    started(handle)
    peer = await serving(played, handle)
    assert ([], [GAUGE, COUNTER]) == await fetched(handle, peer)
    assert ([], [COUNTER]) == await handle.fetch_metrics(0.01)
    waiting = asyncio.create_task(handle.fetch_metrics(30))
    await asyncio.sleep(0)
    await played.die()
    assert ([COUNTER], []) == await waiting == await handle.fetch_metrics(30)


async def test_counters_of_all_dead_workers_of_a_slot_are_added(
    new_handle: NewHandle, clock: SleepsListed, started: Start, played: PlayedWorkers
) -> None:
    handle = new_handle(command=played.command)
    started(handle)
    for number in (1, 2, 3):
        await fetched(handle, await serving(played, handle))
        await played.die()
        await until(lambda number=number: len(clock.sleeps) == number)  # type: ignore[misc]
        clock.advance(clock.sleeps[-1])
    (counted,), _ = await handle.fetch_metrics(30)
    assert [["collector_parts_total", {}, 9.0]] == counted[-1]


async def test_no_worker_holds_back_for_a_dead_one(
    resources: WorkerResources, new_handle: NewHandle, clock: SleepsListed, started: Start, played: PlayedWorkers
) -> None:
    handle = new_handle(command=played.command)
    started(handle)
    await serving(played, handle)
    connection_counts = ConnectionCounts(resources.connection_counts, resources.workers)
    connection_counts.set(0, 20)
    connection_counts.set(1, 0)
    assert connection_counts.has_more(0)
    await played.die()
    await until(lambda: len(clock.sleeps) == 1)
    assert not connection_counts.has_more(0)


async def test_worker_that_hangs_while_it_starts_is_killed_too(
    new_handle: NewHandle, metrics: Metrics, tmp_path: Path, started: Start, caplog: pytest.LogCaptureFixture
) -> None:
    mark = tmp_path / "hangs"
    handle = new_handle(first=f"receive_first(end); Path({str(mark)!r}).touch(); import time; time.sleep(3600)")
    started(handle)
    await until(mark.exists)
    for _ in range(HEARTBEATS_UNTIL_SERVING):
        handle.heartbeat()
    assert [] == caplog.messages
    handle.heartbeat()
    await until(lambda: restarts(metrics) == 1)
    assert [
        "worker 1 hangs: killed",
        "worker 1 died (killed by SIGKILL); replacing it at once",
    ] == caplog.messages


async def test_drain_while_a_worker_starts_ends_it(new_handle: NewHandle, started: Start) -> None:
    """The message cannot be sent yet, because there is no channel."""
    handle = new_handle()
    task = started(handle)
    await asyncio.sleep(0)  # the process is being started
    handle.drain()
    async with asyncio.timeout(30):
        await task
    assert (0, True) == (handle.exit_code, handle.served.is_set())


async def test_replacement_that_cannot_start_is_retried(
    new_handle: NewHandle, clock: SleepsListed, tmp_path: Path, started: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The other workers serve, and the cause may go away. Only if the first worker cannot start, none can."""
    mark = tmp_path / "was here"
    first = f"""
if Path({str(mark)!r}).exists():
    end.sendall(encode("failed", "no folder"))
    sys.exit(1)
Path({str(mark)!r}).touch()
"""
    handle = new_handle(first=first)
    task = started(handle)
    await until(lambda: handle.serves)
    handle.kill()
    await until(lambda: len(clock.sleeps) == 1)
    clock.advance(0)
    await until(lambda: len(clock.sleeps) == 2)
    assert "worker 1 died (no folder); replacing it in 0.5 s" == caplog.messages[-1]
    assert not task.done()
    mark.unlink()
    clock.advance(0.5)
    await until(lambda: handle.serves)


async def test_channel_carries_messages_of_any_size_until_it_ends() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    content = {"text": "x" * 3_000_000, "more": ["ü", None, 1.5]}
    sending = asyncio.create_task(asyncio.to_thread(theirs.sendall, encode("big", content) + encode("small")))
    assert ("big", content) == await channel.receive()
    assert ("small", None) == await channel.receive()
    await sending
    theirs.sendall(encode("cut")[:-2])
    theirs.close()
    assert await channel.receive() is None
    channel.send("ignored")
    channel.close()


def test_first_message_is_read_without_an_event_loop() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(encode("start", {"worker": 1}) + encode("heartbeat"))
        assert ("start", {"worker": 1}) == receive_first(ours)
        assert ("heartbeat", None) == receive_first(ours)
    assert receive_first(ours) is None
    ours.close()


@pytest.mark.parametrize(
    ("orig_argv", "arguments", "expected"),
    [
        (["python", "-m", "collector", "serve"], ["serve"], ["-m", "collector"]),
        (["python", "-X", "dev", "bin/collector", "serve", "--config", "f"], ["serve", "--config", "f"],
         ["-X", "dev", "bin/collector"]),
        (["/x/bin/collector", "-I", "-S", "/x/app", "serve"], ["serve"], ["-I", "-S", "/x/app"]),
    ],
)  # fmt: skip
def test_workers_start_with_the_command_that_started_the_supervisor(
    orig_argv: list[str], arguments: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same interpreter, flags, and module or script; a binary's workers from the folder it was unpacked to."""
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert [sys.executable, *expected] == command(arguments)


def test_auto_is_one_worker_per_usable_core() -> None:
    assert len(os.sched_getaffinity(0)) == processes("auto")
    assert 3 == processes(3)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_folder_is_adopted_by_exactly_one_worker(workers: int) -> None:
    for folder in ("0", "1", "2", "4", "9", "old", "expired"):
        assert 1 == sum(WorkerSlot(number, workers).adopts(folder) for number in range(workers))
