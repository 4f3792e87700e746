"""Framing: where the requests of a connection begin and end in its bytes (RFC 9112, 2.2, 6 and 7.1).

aiohttp's parser does not tell. It must be known for three things: the words of a head that the parser refuses, the
request lines that it takes though they are not HTTP's (`RTSP/1.0`), and trailers: the parser adds the last of them to
the headers of the request behind.

So the parser is given one request at a time. Nothing is judged here: what is framed wrongly is followed no further, and
the parser refuses it.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

END = b"\r\n\r\n"

# Of the lines that frame a body, its trailers together, and each line with a chunk's size and extensions.
MAX_FRAME_BYTES = 32_768

_LINE_ENDS = re.compile(rb"[\r\n]*")
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*0*([0-9]{1,20})[ \t]*\r\n", re.IGNORECASE)
_ENCODED = re.compile(rb"\r\nTransfer-Encoding:", re.IGNORECASE)
_UPGRADES = re.compile(rb"\r\nUpgrade:[ \t]*websocket[ \t]*\r\n", re.IGNORECASE)  # the one that the parser knows
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\n]*)?\r\n")


class _In(Enum):
    HEAD = auto()
    BODY = auto()  # of a known length, or a chunk
    CHUNK_SIZE = auto()
    TRAILERS = auto()
    NOWHERE = auto()  # what comes cannot be followed


@dataclass(slots=True)
class Framed:
    """A request; `closes`: it has come, as far as it can be followed, and what comes behind it must not be read."""

    head: bytes
    closes: bool = False


class Framing:
    """Follows the bytes of a connection."""

    _latest: Framed  # whose body is followed
    taken: Framed | None = None
    """The latest request that the parser has made a message of."""
    is_endless = False
    """Whether the lines that frame a body have grown too long."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The next byte begins a request."""
        self._in = _In.HEAD
        self._waiting: Framed | None = None  # its head is whole, and not taken
        self.is_whole = False  # a request has come to its end, and its slot is not free
        self._kept = b""  # what has come behind it
        self._begun = bytearray()  # of a head, or of a line
        self._left = 0  # of a body
        self._then = _In.HEAD
        self._trailer_bytes = 0

    @property
    def head(self) -> bytes:
        """The head that the parser is reading, or what has come of it; empty where that is not known."""
        if self._waiting is not None:
            return self._waiting.head
        return bytes(self._begun) if self._in is _In.HEAD else b""

    @property
    def is_waiting(self) -> bool:
        """Whether a head is whole that the parser has made no message of."""
        return self._waiting is not None

    def take(self) -> bytes:
        """The head that the parser has just made a message of; empty where that is not known."""
        self.taken, self._waiting = self._waiting, None
        if self.taken is None:
            return b""
        head, self.taken.head = self.taken.head, b""  # an idle connection keeps none: of 10,000 they were 320 MB
        return head

    def free(self) -> None:
        """The parser may read on behind a request that is whole."""
        self.is_whole = False

    def feed(self, data: bytes) -> bytes:
        """Follow what has come; what of it, and of what was kept, the parser may read: up to the end of a request."""
        data = self._kept + data if self._kept else data
        at = 0
        while at < len(data) and not self.is_whole and self._in is not _In.NOWHERE:
            match self._in:
                case _In.HEAD:
                    at = self._read_head(data, at)
                case _In.BODY:
                    at = self._pass_body(data, at)
                case _:
                    at = self._pass_chunks(data, at)
                    if at < len(data):
                        at = self._read_line(data, at)
        if self._in is _In.NOWHERE:
            at = len(data)
        self._kept = data[at:]
        return data[:at]

    def _read_head(self, data: bytes, at: int) -> int:
        if not self._begun:
            at = _LINE_ENDS.match(data, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        end = self._end_of_head(data, at)
        self._begun += data[at:end]
        if end is None:
            return len(data)
        head = bytes(self._begun)
        self._begun.clear()
        self._latest = self._waiting = Framed(head)
        self._go(self._behind(head))
        return end

    def _go(self, where: _In) -> None:
        self._in = where
        self.is_whole = where is _In.HEAD

    def _end_of_head(self, data: bytes, at: int) -> int | None:
        """Where the head that is read ends in `data`; its end may have begun before."""
        before = self._begun[1 - len(END) :]
        found = (before + data[at : at + len(END) - 1]).find(END)
        if found >= 0:
            return at + found + len(END) - len(before)
        found = data.find(END, at)
        return found + len(END) if found >= 0 else None

    def _behind(self, head: bytes) -> _In:
        if head.startswith(b"CONNECT ") or _UPGRADES.search(head):
            self._latest.closes = _ENCODED.search(head) is not None  # it may have trailers that nobody sees
            return _In.NOWHERE
        if _ENCODED.search(head):
            return _In.CHUNK_SIZE
        length = _LENGTH.search(head)
        return self._body(int(length[1]) if length else 0, _In.HEAD)

    def _body(self, length: int, then: _In) -> _In:
        self._left, self._then = length, then
        return _In.BODY if length else then

    def _pass_body(self, data: bytes, at: int) -> int:
        passed = min(self._left, len(data) - at)
        self._left -= passed
        if not self._left:
            self._go(self._then)
        return at + passed

    def _pass_chunks(self, data: bytes, at: int) -> int:
        """Pass the chunks that are whole: one by one, 60,000 of a byte took 0.14 s."""
        while self._in is _In.CHUNK_SIZE and not self._begun:
            size = _CHUNK.match(data, at)
            length = int(size[1], 16) if size else 0
            if size is None or not length or size.end() - at > MAX_FRAME_BYTES:
                break
            end = size.end() + length + len(b"\r\n")
            if end > len(data):
                break
            at = end
        return at

    def _read_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at) + 1 or len(data)
        line = self._begun
        line += data[at:end]
        if self._in is _In.TRAILERS:
            self._trailer_bytes += end - at
        if len(line) > MAX_FRAME_BYTES or self._trailer_bytes > MAX_FRAME_BYTES:
            self.is_endless = True
            self._lose()
        elif line.endswith(b"\n"):
            ended = bytes(line)
            line.clear()
            self._end_line(ended)
        return end

    def _end_line(self, line: bytes) -> None:
        if self._in is _In.CHUNK_SIZE:
            self._begin_chunk(line)
        elif line == b"\r\n":
            self._latest.closes = self._trailer_bytes > len(line)
            self._trailer_bytes = 0
            self._go(_In.HEAD)

    def _begin_chunk(self, line: bytes) -> None:
        size = _CHUNK.fullmatch(line)
        if size is None:
            self._lose()
        else:
            length = int(size[1], 16)
            self._in = self._body(length + len(b"\r\n"), _In.CHUNK_SIZE) if length else _In.TRAILERS

    def _lose(self) -> None:
        self._begun.clear()
        self._latest.closes = True
        self._in = _In.NOWHERE
