"""Drives a conversation: sends its pieces over a new connection and collects everything received."""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.fuzz.conversations import Conversation, End

PIECE_S = 0.001  # pause after a piece, so that the collector reads it separately
PATIENCE_S = 60.0  # far beyond every timeout of the collector


@dataclass(frozen=True, slots=True)
class Received:
    """The bytes received. `cut`: the connection was reset, so some may be missing."""

    data: bytes
    cut: bool


class _Reader(asyncio.Protocol):
    def __init__(self) -> None:
        self.data = bytearray()
        self.closed = asyncio.Event()
        self.failure: BaseException | None = None

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: BaseException | None) -> None:
        self.failure = exc
        self.closed.set()


async def converse(url: str, conversation: Conversation) -> Received:
    """Run the conversation with the collector at that URL. Raises TimeoutError if the connection stays open."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    async with asyncio.timeout(PATIENCE_S):
        transport, reader = await asyncio.get_running_loop().create_connection(_Reader, address.hostname, address.port)
        try:
            for piece, waits in zip(conversation.pieces, conversation.waits, strict=True):
                if transport.is_closing():
                    break
                transport.write(piece)
                if waits:
                    await asyncio.sleep(PIECE_S)
            if not transport.is_closing():
                with suppress(OSError):  # it was just reset; connection_lost follows
                    _leave(transport, conversation.end)
            await reader.closed.wait()
        finally:
            transport.abort()
    left_early = conversation.end in (End.RESET, End.SLAM)
    return Received(bytes(reader.data), left_early or reader.failure is not None)


def _leave(transport: Any, end: End) -> None:
    match end:
        case End.HALF_CLOSE:
            transport.write_eof()
        case End.RESET:
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        case End.SLAM:
            transport.close()
