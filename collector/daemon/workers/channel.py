"""The control channel: the messages between the supervisor and a worker, over a pair of sockets.

    length (4 bytes, big-endian)  JSON: [kind, content]

    supervisor to worker   start {config, labelled, worker, workers, data_dir, descriptors}, heartbeat,
                           metrics, reload {number, labelled} and then the configuration, drain, exit
    worker to supervisor   serving, heartbeat [UNREADY_REASON, STATS...], metrics FAMILIES, reloaded NUMBER,
                           failed WHY

The configuration of a reload follows its message, with a length of its own: decoding 2 MB of JSON within JSON would
block the worker's loop for 4 ms. Reloads are numbered, so that a late reply to an abandoned one is not taken for the
reply to the next. Except for heartbeats, no request is sent again before it is answered, so the data that waits in the
sockets is bounded. When the channel ends, the other side is dead: no third process has it open.
"""

import asyncio
import socket
from typing import Any

import ujson

_LENGTH_BYTES = 4

Message = tuple[str, Any]
"""Kind and content."""


class Channel:
    """One end of the channel, in an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """The channel over this socket, which it owns from now on."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, kind: str, content: Any = None) -> None:
        """Send, unless the channel is closed."""
        self.send_encoded(encode(kind, content))

    def send_encoded(self, message: bytes) -> None:
        """Send a message that is already encoded, maybe in a thread."""
        if not self._writer.is_closing():
            self._writer.write(message)

    async def receive(self) -> Message | None:
        """The next message; None at the end."""
        message = await self.receive_bytes()
        return None if message is None else _decode(message)

    async def receive_bytes(self) -> bytes | None:
        """The next message, or the configuration that follows it, undecoded; None at the end."""
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
    """JSON, with its length in front."""
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
