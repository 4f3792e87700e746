"""The fast path: from the bytes of a request to a decision, without a Request, a Response and a task of aiohttp.

Nearly all requests take it, as their heads have nothing special about them: a request line of HTTP/1.1 with a path of
printable ASCII, then header lines of printable ASCII with no name twice. This is a strict part of what RFC 9112 allows.
aiohttp's parser takes all of it, and reads it the same way (tests/edge/test_head.py). All other requests take the
standard path, through aiohttp. Both make the same `Request` of what came, and so get the same answers: the tests of
tests/edge run over both.

A line seen before is looked up by its bytes, and nearly all were: of the 18 lines that a browser behind a proxy sends,
all but the client's address come again and again. So a head costs two thirds of what aiohttp's parser takes, and
nothing is left to be looked up in a request (`python -m bench micro`).
"""

import logging
import re

from collector.edge.refusal import is_host
from collector.edge.request import Request, Route, find_route

log = logging.getLogger(__name__)

# The methods that aiohttp's parser knows, and that mean nothing for the connection.
_REQUEST_LINE = re.compile(rb"(POST|OPTIONS|GET|HEAD|PUT|PATCH|DELETE) (/[!-\"$->@-~]*)(?:\?[!-\"$-~]*)? HTTP/1\.1")
# RFC 9110, 5.1 and 5.5, without what is obsolete or invisible. The value has no blank at its ends.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([!-~](?:[ -~]*[!-~])?)")
_LENGTH = re.compile("[0-9]{1,8}")

# What changes how a body is read, or the connection behind it, is left to aiohttp. (Its parser takes
# `Proxy-Connection`, which old proxies forward, for `Connection`.)
_LEFT_TO_AIOHTTP = frozenset(
    (
        "transfer-encoding",
        "te",
        "trailer",
        "expect",
        "upgrade",
        "proxy-connection",
        "sec-websocket-key1",
    )
)
# Different for every client or request, and so not worth remembering.
_SELDOM_TWICE = frozenset(
    ("x-forwarded-for", "cookie", "cf-ray", "cf-connecting-ip", "x-real-ip", "x-request-id", "traceparent", "forwarded")
)

END = b"\r\n\r\n"
LONGEST_HEAD_BYTES = 4_096  # half of what aiohttp takes of one line
MOST_LINES = 64  # half of what aiohttp takes

# 18 MB at most, of lines of 1 KB; browsers of all versions in all languages send some 2,000.
MAX_KNOWN_LINES = 8_192
LONGEST_KNOWN_LINE_BYTES = 1_024
MAX_KNOWN_REQUEST_LINES = 32_768  # 10 MB
LONGEST_KNOWN_REQUEST_LINE_BYTES = 128


class Lines(dict[bytes, tuple[str, str]]):
    """Lines to (name in lower case, value); what is missing is read. Raises LeftToAiohttp."""

    def __missing__(self, line: bytes) -> tuple[str, str]:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise LeftToAiohttp
        name, value = match[1].decode().lower(), match[2].decode()
        if (
            name in _LEFT_TO_AIOHTTP
            or (name == "content-length" and not _LENGTH.fullmatch(value))
            or (name == "host" and not is_host(value))
            or (name == "connection" and value.lower() not in ("keep-alive", "close"))
        ):
            raise LeftToAiohttp
        if name not in _SELDOM_TWICE and len(line) <= LONGEST_KNOWN_LINE_BYTES:
            if len(self) >= MAX_KNOWN_LINES:
                self.clear()
            self[line] = name, value
        return name, value


class LeftToAiohttp(Exception):
    """A line that no head of the fast path has."""


class FastPath:
    """Reads the heads of all connections, and remembers lines."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._known: dict[bytes, tuple[str, Route]] = {}  # by the whole request line

    def read(self, data: bytes, end: int, peer: str | None) -> Request | None:
        """The request whose head ends at `end`, where its END begins; None if it takes the standard path."""
        if end > LONGEST_HEAD_BYTES:
            return None
        lines = data[:end].split(b"\r\n")
        try:
            first = self._known.get(lines[0]) or self._read_request_line(lines[0])
            del lines[0]
            fields = dict(map(self._lines.__getitem__, lines))
        except LeftToAiohttp:
            return None
        except Exception:  # the standard path has an answer to that, too
            log.exception("the head of a request could not be read")
            return None
        if "host" not in fields or len(fields) != len(lines) or len(lines) >= MOST_LINES:
            return None
        method, route = first
        close = fields.get("connection", "").lower() == "close"
        return Request(method, route, peer, fields, int(fields.get("content-length", 0)), close)

    def _read_request_line(self, line: bytes) -> tuple[str, Route]:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise LeftToAiohttp
        method = match[1].decode()
        first = method, find_route(method, match[2].decode())
        if len(line) <= LONGEST_KNOWN_REQUEST_LINE_BYTES:
            if len(self._known) >= MAX_KNOWN_REQUEST_LINES:
                self._known.clear()
            self._known[line] = first
        return first
