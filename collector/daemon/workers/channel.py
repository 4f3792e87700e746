"""The control channel: messages between the supervisor and a worker, over a socket pair.

    length (4 bytes, big-endian)  JSON: [kind, content]

    supervisor to worker   start {config, labelled, worker, workers, data_dir, public, table, connection_counts},
                           heartbeat, metrics, reload {number, labelled} and then the configuration, drain, exit
    worker to supervisor   serving, heartbeat [UNREADY_REASON, STATS...], metrics FAMILIES, reloaded NUMBER,
                           failed WHY

The configuration of a reload follows its message as a second frame, because decoding 2 MB of JSON inside JSON would
block the worker's loop for 4 ms. Reloads are numbered, so a late reply to an abandoned reload is not mistaken for the
reply to the next one. The data that waits in the sockets is bounded: metrics are requested again only after a reply,
and a worker that leaves too many heartbeats unanswered is killed. When the channel ends, the other side is dead,
because no third process has it open.
"""

import asyncio
import socket
from typing import Any

import ujson

_LENGTH_BYTES = 4

Message = tuple[str, Any]
"""A message: its kind and its content."""


class Channel:
    """One end of the channel, for use in an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """A channel over this socket. The channel owns the socket from now on."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, kind: str, content: Any = None) -> None:
        """Send a message. Does nothing if the channel is closed."""
        self.send_encoded(encode(kind, content))

    def send_encoded(self, message: bytes) -> None:
        """Send a message that is already framed, for example by a thread. Does nothing if the channel is closed."""
        if not self._writer.is_closing():
            self._writer.write(message)

    async def receive(self) -> Message | None:
        """The next message, or None at the end of the channel."""
        message = await self.receive_bytes()
        return None if message is None else _decode(message)

    async def receive_bytes(self) -> bytes | None:
        """The next frame (a message or a configuration) undecoded, or None at the end of the channel."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big")
            return await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.close()


def encode(kind: str, content: Any = None) -> bytes:
    """A message with its length in front, ready to send."""
    return framed(f"[{ujson.dumps(kind)},{ujson.dumps(content)}]".encode())


def framed(message: bytes) -> bytes:
    """JSON with its length in front, ready to send."""
    return len(message).to_bytes(_LENGTH_BYTES, "big") + message


def receive_first(end: socket.socket) -> Message | None:
    """The next message, or None at the end. Blocks; for use before the event loop runs."""
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
