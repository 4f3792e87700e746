"""The supervisor's parts, without workers: when it replaces, what it takes for ready, what it starts."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.resources import DataDir
from collector.daemon.serve import command, processes
from collector.daemon.workers.acceptor import CONNECTION_COUNTS_BYTES, Acceptor, ConnectionCounts
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
from tests.support import FakeClock, config

# A worker that says it serves and answers every heartbeat, until it is told to end, or to hang.
WORKER = """
import socket, sys
from collector.daemon.workers.channel import encode, receive_first
end = socket.socket(fileno=int(sys.argv[-1]))
{first}
end.sendall(encode("serving"))
while message := receive_first(end):
    if message[0] == "heartbeat": end.sendall(encode("heartbeat", [None, 0, 0, 0, 0]))
    if message[0] == "drain": break
"""


@pytest.fixture
def resources(tmp_path: Path) -> WorkerResources:
    with socket.create_server(("127.0.0.1", 0)) as public:
        files = [shared_memory("table", table_bytes()), shared_memory("connection_counts", CONNECTION_COUNTS_BYTES)]
        folder, lock = os.open(tmp_path, os.O_RDONLY), os.open(os.devnull, os.O_RDONLY)
        return WorkerResources([], 2, DataDir(tmp_path, folder, lock), public.detach(), *files)


def new_handle(resources: WorkerResources, tmp_path: Path, clock: FakeClock, first: str = "") -> WorkerHandle:
    with_command = WorkerResources(
        [sys.executable, "-c", WORKER.format(first=first)], *[getattr(resources, name) for name in FIELDS]
    )
    metrics, connection_counts = Metrics(), ConnectionCounts(resources.connection_counts, resources.workers)
    return WorkerHandle(1, with_command, lambda: config(tmp_path), metrics, clock, connection_counts)


FIELDS = ("workers", "data_dir", "public", "table", "connection_counts")


async def until(true: Any) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - another process makes it so
            await asyncio.sleep(0.01)


@pytest.fixture
async def started() -> AsyncIterator[Any]:
    tasks: list[tuple[WorkerHandle, asyncio.Task[None]]] = []

    def start(handle: WorkerHandle) -> asyncio.Task[None]:
        tasks.append((handle, asyncio.create_task(handle.run())))
        return tasks[-1][1]

    yield start
    for handle, task in tasks:
        handle.drain()
        handle.kill()
        await asyncio.wait([task], timeout=30)


def restarts(handle: WorkerHandle) -> float | None:
    return handle._metrics.registry.get_sample_value("collector_worker_restarts_total")


async def test_worker_that_answers_lives_and_one_that_does_not_is_killed(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock, started: Any
) -> None:
    handle = new_handle(resources, tmp_path, clock)
    started(handle)
    await until(lambda: handle.serves)
    for _ in range(3 * HEARTBEATS_UNANSWERED):
        handle.heartbeat()
        await until(lambda: handle._unanswered == 0)
    assert 0 == restarts(handle)
    for _ in range(HEARTBEATS_UNANSWERED + 1):  # in one turn of the loop: none can be answered
        handle.heartbeat()
    await until(lambda: restarts(handle) == 1)


async def test_worker_that_keeps_dying_is_replaced_at_once_and_then_later_and_later(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock, started: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handle = new_handle(resources, tmp_path, clock, first="sys.exit(3)")
    task = started(handle)
    for number, wait_s in enumerate((0, 0.5, 1, 2, 4, 8, 16, 30, 30), 1):
        await until(lambda number=number: restarts(handle) == number)
        assert "replaced " + (f"in {wait_s:g} s" if wait_s else "at once") in caplog.messages[-1]
        await asyncio.sleep(0.02)
        clock.advance(wait_s)
    assert not task.done()


async def test_worker_that_served_long_is_replaced_at_once_each_time(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock, started: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handle = new_handle(resources, tmp_path, clock)
    started(handle)
    for number in (1, 2, 3):
        await until(lambda: handle.serves)
        clock.advance(STEADY_S + 1)
        handle.kill()
        await until(lambda number=number: restarts(handle) == number)
        assert caplog.messages[-1].endswith("replaced at once")
        await until(lambda: not handle.serves)
        await asyncio.sleep(0.02)
        clock.advance(0)


def test_every_way_to_die_has_a_name() -> None:
    """A worker that dies must not take the supervisor along, whatever it died of."""
    assert ["exit code 0", "exit code 3"] == [describe_exit(0), describe_exit(3)]
    assert ["killed by SIGKILL", "killed by signal 35"] == [describe_exit(-9), describe_exit(-35)]
    assert all(describe_exit(-number) for number in range(1, signal.NSIG))


async def test_ready_is_whoever_has_one_worker_that_takes_events(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock
) -> None:
    supervisor = Supervisor(config(tmp_path), tmp_path, resources, clock)
    one, other = supervisor._handles
    assert "no worker serves" == supervisor.unready_reason()
    one.serves = True
    assert supervisor.unready_reason() is None
    one.unready_reason = "the journal is full"
    assert "the journal is full" == supervisor.unready_reason()
    other.serves = True
    assert supervisor.unready_reason() is None


async def test_second_signal_kills_who_does_not_hear_it(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.daemon.workers.supervisor.SECOND_SIGNAL_S", 0.01)
    killed: list[int] = []
    monkeypatch.setattr(WorkerHandle, "kill", lambda handle: killed.append(handle.number))
    supervisor = Supervisor(config(tmp_path), tmp_path, resources, clock)
    supervisor._signals.receive(signal.SIGTERM, 0)
    supervisor._signals.receive(signal.SIGTERM, 1)
    await asyncio.sleep(0.05)
    assert [] == killed
    supervisor._signals.receive(signal.SIGINT, 2)
    await until(lambda: killed == [0, 1])


async def test_scrape_without_any_worker_says_not_ready(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock
) -> None:
    text = (await Supervisor(config(tmp_path), tmp_path, resources, clock).metrics_page()).decode()
    assert "collector_ready 0.0\n" in text
    assert 'collector_workers{state="configured"} 2.0' in text


GAUGE = ["collector_connections", "gauge", "", [["collector_connections", {}, 7.0]]]
COUNTER = ["collector_parts", "counter", "", [["collector_parts_total", {}, 3.0]]]


async def test_scrapes_at_once_do_not_spoil_one_another(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock
) -> None:
    """The second asks anew just when the answer to the first has come."""
    handle = new_handle(resources, tmp_path, clock)
    handle.serves = True
    first = asyncio.create_task(handle.fetch_metrics(5))
    await asyncio.sleep(0)
    second = asyncio.create_task(handle.fetch_metrics(5))
    handle._handle("metrics", [GAUGE, COUNTER])
    assert ([], [GAUGE, COUNTER]) == await first
    handle._handle("metrics", [GAUGE, COUNTER])
    assert ([], [GAUGE, COUNTER]) == await second


async def test_worker_that_does_not_answer_a_scrape_keeps_what_it_counted(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock
) -> None:
    """Or a counter would fall; what it held nobody knows. Its death changes nothing, also not while it is asked."""
    handle = new_handle(resources, tmp_path, clock)
    handle.serves = True
    handle._last = [GAUGE, COUNTER]
    assert ([], [COUNTER]) == await handle.fetch_metrics(0.01)
    asked = asyncio.create_task(handle.fetch_metrics(5))
    await asyncio.sleep(0)
    handle._worker_died()
    assert ([COUNTER], []) == await asked == await handle.fetch_metrics(5)


async def test_dead_workers_of_one_slot_all_count(resources: WorkerResources, tmp_path: Path, clock: FakeClock) -> None:
    handle = new_handle(resources, tmp_path, clock)
    for _ in range(3):
        handle._last = [GAUGE, COUNTER]
        handle._worker_died()
    (counted,), _ = await handle.fetch_metrics(5)
    assert [["collector_parts_total", {}, 9.0]] == counted[-1]


async def test_nobody_holds_back_for_a_worker_that_is_dead(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock
) -> None:
    handle = new_handle(resources, tmp_path, clock)
    connection_counts = ConnectionCounts(resources.connection_counts, resources.workers)
    connection_counts.set(0, 20)
    connection_counts.set(1, 0)
    assert connection_counts.has_more(0)
    handle._worker_died()
    assert not connection_counts.has_more(0)


async def test_worker_that_hangs_while_it_starts_is_killed_too(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock, started: Any
) -> None:
    handle = new_handle(resources, tmp_path, clock, first="import time; time.sleep(3600)")
    started(handle)
    await until(lambda: handle._channel is not None)
    for _ in range(HEARTBEATS_UNTIL_SERVING):
        handle.heartbeat()
    assert handle._process is not None
    assert handle._process.returncode is None
    handle.heartbeat()
    await until(lambda: restarts(handle) == 1)


async def test_drain_that_comes_while_a_worker_starts_ends_it(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock, started: Any
) -> None:
    """There is no channel yet that it could be sent over."""
    handle = new_handle(resources, tmp_path, clock)
    task = started(handle)
    await asyncio.sleep(0)
    assert handle._channel is None
    handle.drain()
    async with asyncio.timeout(30):
        await task
    assert (0, True) == (handle.exit_code, handle.served.is_set())


async def test_worker_that_cannot_start_again_is_tried_again(
    resources: WorkerResources, tmp_path: Path, clock: FakeClock, started: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its siblings serve, and what keeps it may pass; only if the very first cannot start, none can."""
    mark = tmp_path / "was here"
    first = f"""
from pathlib import Path
if Path({str(mark)!r}).exists():
    end.sendall(encode("failed", "no folder"))
    sys.exit(1)
Path({str(mark)!r}).touch()
"""
    handle = new_handle(resources, tmp_path, clock, first=first)
    task = started(handle)
    await until(lambda: handle.serves)
    handle.kill()
    await until(lambda: restarts(handle) == 1)
    await asyncio.sleep(0.02)
    clock.advance(0)
    await until(lambda: restarts(handle) == 2)
    assert "worker 1 is dead (no folder); replaced in 0.5 s" == caplog.messages[-1]
    assert not task.done()
    mark.unlink()
    await asyncio.sleep(0.02)
    clock.advance(0.5)
    await until(lambda: handle.serves)


async def test_channel_carries_messages_of_any_size_to_its_end() -> None:
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
    channel.send("nobody hears")
    channel.close()


def test_first_message_is_read_without_a_loop() -> None:
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
def test_workers_are_started_as_the_supervisor_was(
    orig_argv: list[str], arguments: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By interpreter, flags, and module or script; or the folder that a binary was unpacked to."""
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert [sys.executable, *expected] == command(arguments)


def test_auto_is_as_many_as_there_are_cores() -> None:
    assert len(os.sched_getaffinity(0)) == processes("auto")
    assert 3 == processes(3)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_folder_is_one_workers_to_adopt(workers: int) -> None:
    for folder in ("0", "1", "2", "4", "9", "old", "expired"):
        assert 1 == sum(WorkerSlot(number, workers).adopts(folder) for number in range(workers))


async def test_worker_with_more_connections_holds_back_for_one_with_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment: if nobody else takes the connection, it does. Nobody holds back for a worker that is not there."""
    monkeypatch.setattr("collector.daemon.workers.acceptor.HOLD_BACK_S", 3600)
    connection_counts = ConnectionCounts(shared_memory("connection_counts", CONNECTION_COUNTS_BYTES), 2)
    bound = socket.create_server(("127.0.0.1", 0))
    bound.setblocking(False)
    entered: list[asyncio.Protocol] = []

    def enter() -> asyncio.Protocol:
        entered.append(asyncio.Protocol())
        return entered[-1]

    acceptor = Acceptor(bound, enter, lambda: 20, connection_counts, 0)
    connection_counts.set(1, 5)
    acceptor.open()
    address = bound.getsockname()
    _, first = await asyncio.open_connection(*address)
    await until(lambda: acceptor._holding_back is not None)
    assert [] == entered
    acceptor._resume()
    await until(lambda: len(entered) == 1)
    connection_counts.set_absent(1)
    _, second = await asyncio.open_connection(*address)
    await until(lambda: len(entered) == 2)
    acceptor.close()
    for writer in (first, second):
        writer.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection(*address)
