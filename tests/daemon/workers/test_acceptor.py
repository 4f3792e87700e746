"""The acceptor: each worker takes its share of the connections, from all sockets."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from collector.daemon.workers.acceptor import CONNECTION_COUNTS_BYTES, Acceptor, ConnectionCounts
from collector.portable import shared_memory
from tests.edge.wire import until


@contextmanager
def accepting(
    bound: socket.socket, connections: int, counts: ConnectionCounts, worker: int, *others: socket.socket
) -> Iterator[list[Any]]:
    """Accept like a worker that already has this many connections; yields the accepted ones."""
    entered: list[Any] = []

    class Entered(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            entered.append(transport)

    acceptor = Acceptor([bound, *others], Entered, lambda: connections, counts, worker)
    acceptor.open()
    try:
        yield entered
    finally:
        acceptor.close()
        for transport in entered:
            transport.close()


@pytest.fixture
def connection_counts() -> ConnectionCounts:
    return ConnectionCounts(shared_memory("connection_counts", CONNECTION_COUNTS_BYTES), 2)


@pytest.fixture
def bound() -> socket.socket:
    """A listening socket. The acceptor closes it."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    return listening


async def connect(address: tuple[str, int]) -> None:
    _, writer = await asyncio.open_connection(*address)
    writer.close()


async def test_worker_with_more_connections_leaves_the_next_to_one_with_fewer(
    bound: socket.socket, connection_counts: ConnectionCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.daemon.workers.acceptor.HOLD_BACK_S", 3600)
    address = bound.getsockname()
    with (
        accepting(bound.dup(), 5, connection_counts, 1) as few,
        accepting(bound, 20, connection_counts, 0) as many,
    ):
        for number in range(1, 11):
            await connect(address)
            await until(lambda number=number: len(few) + len(many) == number)  # type: ignore[misc]
    assert (10, 0) == (len(few), len(many))


async def test_worker_that_held_back_accepts_if_no_other_does(
    bound: socket.socket, connection_counts: ConnectionCounts
) -> None:
    connection_counts.set(1, 5)  # and this one hangs
    with accepting(bound, 20, connection_counts, 0) as entered:
        await connect(bound.getsockname())
        await until(lambda: len(entered) == 1)


async def test_worker_does_not_hold_back_for_one_that_is_not_running(
    bound: socket.socket, connection_counts: ConnectionCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.daemon.workers.acceptor.HOLD_BACK_S", 3600)
    connection_counts.set_absent(1)
    with accepting(bound, 20, connection_counts, 0) as entered:
        await connect(bound.getsockname())
        await until(lambda: len(entered) == 1)


async def test_acceptor_that_is_closed_accepts_no_connection(
    bound: socket.socket, connection_counts: ConnectionCounts
) -> None:
    address = bound.getsockname()
    with accepting(bound, 0, connection_counts, 0):
        pass
    with pytest.raises(ConnectionError):
        await connect(address)


class OutOfDescriptors(socket.socket):
    """A listening socket whose connections cannot be accepted."""

    def accept(self) -> tuple[socket.socket, Any]:
        raise OSError(errno.EMFILE, "Too many open files")


async def test_worker_that_held_back_accepts_from_each_of_its_sockets(
    bound: socket.socket, connection_counts: ConnectionCounts, tmp_path: Path
) -> None:
    connection_counts.set(1, 5)  # and this one hangs
    with socket.socket(socket.AF_UNIX) as over_unix:
        over_unix.bind(str(tmp_path / "a"))
        over_unix.listen()
        over_unix.setblocking(False)
        with accepting(bound, 20, connection_counts, 0, over_unix) as entered:
            for number, address in enumerate((bound.getsockname(), str(tmp_path / "a")) * 3, 1):
                with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
                    client.connect(address)
                    await until(lambda number=number: len(entered) == number)  # type: ignore[misc]


async def test_lack_of_descriptors_is_logged_once_a_round_for_all_sockets(
    connection_counts: ConnectionCounts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("collector.daemon.workers.acceptor.OUT_OF_DESCRIPTORS_S", 3600)
    full = [OutOfDescriptors(), OutOfDescriptors()]
    for each in full:
        each.listen()
    acceptor = Acceptor(full, asyncio.Protocol, lambda: 0, connection_counts, 0)
    acceptor.open()
    acceptor._resume()
    assert ["cannot accept connections: [Errno 24] Too many open files"] == caplog.messages
    acceptor.close()
