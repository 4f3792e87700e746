"""The control channel: the messages between the supervisor and a worker, over a pair of sockets.

    length (4 bytes, big-endian)  JSON: [kind, content]

    supervisor to worker   start {config, labelled, worker, workers, data_dir, descriptors}, heartbeat,
                           metrics, reload {number, labelled} and then the configuration, drain, exit
    worker to supervisor   serving, heartbeat [REFUSAL, STATS...], metrics FAMILIES, reloaded NUMBER, failed WHY

The configuration of a reload comes behind its message, with a length of its own: to decode 2 MB of JSON within JSON
would hold the worker's loop for 4 ms. Reloads are numbered, so that a late reply to one that was given up is not taken
for the reply to the next. Heartbeats aside, no request is sent again before it is answered, so what waits in the
sockets is bounded. The end of the channel means that the other side is dead: no third process has an end of it.
"""

import asyncio
import socket
from typing import Any

import ujson

_LENGTH_BYTES = 4

Message = tuple[str, Any]
"""Kind and content."""


class Channel:
    """One side's end, in its event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """The channel over this end, which it owns from now on."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, kind: str, content: Any = None) -> None:
        """Send, if anybody is there."""
        self.send_encoded(encode(kind, content))

    def send_encoded(self, message: bytes) -> None:
        """Send what `encode` made, maybe in a thread."""
        if not self._writer.is_closing():
            self._writer.write(message)

    async def receive(self) -> Message | None:
        """The next message; None at the end."""
        message = await self.receive_bytes()
        return None if message is None else _decode(message)

    async def receive_bytes(self) -> bytes | None:
        """The next message as it was sent, or what comes behind it; None at the end."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            return await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.close()


def encode(kind: str, content: Any = None) -> bytes:
    """The message as it is sent."""
    return framed(f"[{ujson.dumps(kind)},{ujson.dumps(content)}]".encode())


def framed(message: bytes) -> bytes:
    """JSON, its length in front of it."""
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message


def receive_first(end: socket.socket) -> Message | None:
    """The next message, before there is an event loop; None at the end."""
    length = int.from_bytes(_exactly(end, _LENGTH_BYTES), "big")
    message = _exactly(end, length)
    return _decode(message) if message else None


def _exactly(end: socket.socket, size_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < size_bytes:
        piece = end.recv(size_bytes - len(data))
        if not piece:
            return b""
        data += piece
    return bytes(data)


def _decode(message: bytes) -> Message:
    kind, content = ujson.loads(message)
    return kind, content
