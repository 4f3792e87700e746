"""The fast path: from the bytes of a request to a decision, without aiohttp's Request, Response and task.

Nearly all requests take it, because their heads are plain: an HTTP/1.1 request line with a path of printable ASCII,
then header lines of printable ASCII, with each header of ONCE at most once. This is a strict subset of RFC 9112, and
aiohttp's parser reads all of it the same way (tests/edge/test_head.py). All other requests take the standard path,
through aiohttp. Both paths make the same `Request`, and so give the same responses; the tests in tests/edge run over
both.

Lines seen before are looked up by their bytes. Of the 18 lines that a browser behind a proxy sends, nearly all repeat.
So reading a head takes a quarter of the time of aiohttp's parser (`python -m bench micro`).
"""

import logging
import re
from typing import Final

from collector.edge.refusal import is_host
from collector.edge.request import ONCE, Request
from collector.edge.routes import Endpoint, Route, Routes
from collector.recent import Recent

log = logging.getLogger(__name__)

# The methods that aiohttp's parser knows and that do not affect the connection.
_REQUEST_LINE = re.compile(rb"(POST|OPTIONS|GET|HEAD|PUT|PATCH|DELETE) (/[!-\"$->@-~]*)(?:\?[!-\"$-~]*)? HTTP/1\.1")
# RFC 9110, 5.1 and 5.5, without obsolete syntax and invisible characters. The value has no blanks at its ends.
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([!-~](?:[ -~]*[!-~])?)")
_LENGTH: Final = re.compile("[0-9]{1,8}")

# Headers that change how the body is read, or what happens to the connection, are left to aiohttp. (Its parser treats
# `Proxy-Connection`, which old proxies forward, as `Connection`.)
_LEFT_TO_AIOHTTP: Final = frozenset(
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
# Not remembered, because they differ for every client or request.
# Keys are not kept in memory either.
_SELDOM_TWICE: Final = frozenset(
    ("authorization", "cf-ray", "cookie", "idempotency-key", "traceparent", "x-request-id")
)

END: Final = b"\r\n\r\n"
LONGEST_HEAD_BYTES: Final = 4_096  # half of aiohttp's limit for one line
MOST_LINES: Final = 64  # half of aiohttp's limit

# 25 MB with lines of 70 characters, 30 MB at most. Browsers of all versions and languages send some 2,000 different
# lines, each site's pages send a few more, and each client one with its address.
MAX_KNOWN_LINES = 32_768
LONGEST_KNOWN_LINE_BYTES: Final = 256
MAX_KNOWN_REQUEST_LINES = 16_384  # 10 MB with site ids of usual length, 20 MB at most
LONGEST_KNOWN_REQUEST_LINE_BYTES: Final = 128


class LeftToAiohttp(Exception):
    """The head has a line that the fast path does not read."""


class FastPath:
    """Reads the heads of all connections, and remembers lines."""

    def __init__(self, routes: Routes) -> None:
        self._routes: Final = routes
        # The name in lower case, "" if the header is dropped, and the value.
        self._lines: Recent[bytes, tuple[str, str]] = Recent(MAX_KNOWN_LINES)
        self._known: Recent[bytes, tuple[str, Route]] = Recent(MAX_KNOWN_REQUEST_LINES)  # by request line

    def read(self, data: bytes, end: int, peer: str | None) -> Request | None:
        """The request whose head ends at `end`, where END begins. None: it takes the standard path."""
        if end > LONGEST_HEAD_BYTES:
            return None
        lines = data[:end].split(b"\r\n")
        try:
            first = self._known.get(lines[0]) or self._read_request_line(lines[0])
            fields = self._read_headers(lines)
        except LeftToAiohttp:
            return None
        except Exception:  # the standard path can still serve the request
            log.exception("the head of a request could not be read")
            return None
        if "host" not in fields or len(lines) > MOST_LINES:
            return None
        method, route = first
        close = fields.get("connection", "").lower() == "close"
        return Request(method, route, peer, fields, int(fields.get("content-length", 0)), close)

    def _read_headers(self, lines: list[bytes]) -> dict[str, str]:
        """The headers in ONCE, by name in lower case. Raises LeftToAiohttp."""
        known = self._lines
        fields: dict[str, str] = {}
        count = 0
        for at in range(1, len(lines)):
            line = lines[at]
            field = known.get(line) or self._read_line(line)
            name = field[0]
            if name:
                fields[name] = field[1]
                count += 1
        if len(fields) < count:  # one is repeated
            raise LeftToAiohttp
        return fields

    def _read_line(self, line: bytes) -> tuple[str, str]:
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
        field = (name, value) if name in ONCE else ("", "")
        if name not in _SELDOM_TWICE and len(line) <= LONGEST_KNOWN_LINE_BYTES:
            self._lines.put(line, field)
        return field

    def _read_request_line(self, line: bytes) -> tuple[str, Route]:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise LeftToAiohttp
        method = match[1].decode()
        route = self._routes.find(method, match[2].decode())
        # The response to a file depends on headers that are not in ONCE, and a pixel on its query.
        if route.endpoint in (Endpoint.FILE, Endpoint.PIXEL):
            raise LeftToAiohttp
        first = method, route
        if len(line) <= LONGEST_KNOWN_REQUEST_LINE_BYTES:
            self._known.put(line, first)
        return first
