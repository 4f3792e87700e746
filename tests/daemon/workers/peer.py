"""The far end of a control channel, played by the test itself."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# A worker process that hands its end of the channel to the test, and lives until the test hangs up.
HANDS_OVER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as test:
    test.connect(sys.argv[1])
    socket.send_fds(test, [b"!"], [int(sys.argv[-1])])
    socket.close(int(sys.argv[-1]))
    test.recv(1)
"""


class Peer:
    """Reads and writes the frames of a channel without the code under test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Peer":
        return cls(*await asyncio.open_unix_connection(sock=end))

    async def frame(self) -> Any:
        async with asyncio.timeout(30):
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            return json.loads(await self._reader.readexactly(length))

    async def asked(self, kind: str) -> Any:
        """The content of the next message of that kind. Skips other messages."""
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
    """One end of a channel for the code under test, and the other end for the test."""
    ours, theirs = socket.socketpair()
    return ours, await Peer.over(theirs)


class PlayedWorkers:
    """Worker processes that a handle starts with `command`, and whose side of the channel the test plays."""

    def __init__(self, socket_file: Path) -> None:
        self.command = [sys.executable, "-I", "-S", "-c", HANDS_OVER, str(socket_file)]
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(socket_file))
        self._listener.listen()
        self._listener.setblocking(False)
        self._current: tuple[socket.socket, Peer] | None = None

    async def next(self) -> Peer:
        """The peer of the next process that starts."""
        async with asyncio.timeout(30):
            process, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            process.setblocking(True)  # its message is on the way
            _, (end,), _, _ = await asyncio.to_thread(socket.recv_fds, process, 1, 1)
        peer = await Peer.over(socket.socket(fileno=end))
        self._current = process, peer
        return peer

    async def die(self) -> None:
        """End the process that `next` returned last."""
        if self._current is not None:
            (process, peer), self._current = self._current, None
            process.close()
            await peer.close()

    @classmethod
    @asynccontextmanager
    async def at(cls, socket_file: Path) -> AsyncIterator["PlayedWorkers"]:
        workers = cls(socket_file)
        try:
            yield workers
        finally:
            await workers.die()
            workers._listener.close()
