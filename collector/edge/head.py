"""Heads of ordinary requests, read line by line.

An ordinary head is a collect request of a known path, then header lines of printable ASCII with no name twice: a strict
part of what RFC 9112 allows, all of which aiohttp's parser takes and reads the same way (tests/edge/test_head.py).

A line seen before is looked up by its bytes, and nearly all were: of the 18 lines that a browser behind a proxy sends,
all but the client's address come again and again. So a head costs two thirds of what aiohttp's parser takes, and
nothing is left to be looked up in a request (`python -m bench micro`).
"""

import re

from collector.edge.refusal import is_host

_REQUEST_LINE = re.compile(rb"POST /public/([A-Za-z0-9_-]{1,64})/analytics/collect/? HTTP/1\.1")
# RFC 9110, 5.1 and 5.5, without what is obsolete or invisible. The value has no blank at its ends.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([!-~](?:[ -~]*[!-~])?)")
_LENGTH = re.compile("[0-9]{1,8}")

# What changes how a body is read, or the connection behind it, is not ordinary. (aiohttp's parser takes
# `Proxy-Connection`, which old proxies forward, for `Connection`.)
_NOT_ORDINARY = frozenset(
    (
        "content-encoding",
        "transfer-encoding",
        "te",
        "trailer",
        "expect",
        "upgrade",
        "proxy-connection",
        "sec-websocket-key1",
    )
)
# Of everyone's own and so not worth remembering.
_SELDOM_TWICE = frozenset(("x-forwarded-for", "cookie"))

END = b"\r\n\r\n"
LONGEST_HEAD_BYTES = 4_096  # half of what aiohttp takes of one line
MOST_LINES = 64  # half of what aiohttp takes

# 18 MB at most, of lines of 1 KB; browsers of all versions in all languages send some 2,000.
MAX_KNOWN_LINES = 8_192
LONGEST_KNOWN_LINE_BYTES = 1_024
MAX_KNOWN_SITES = 32_768  # 6 MB


Head = tuple[str, dict[str, str], int]
"""What an ordinary head says: the site's id, the fields by their names in lower case, and the length of the body."""


class Lines(dict[bytes, tuple[str, str]]):
    """Lines to (name in lower case, value); what is missing is read. Raises NotOrdinary."""

    def __missing__(self, line: bytes) -> tuple[str, str]:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise NotOrdinary
        name, value = match[1].decode().lower(), match[2].decode()
        if (
            name in _NOT_ORDINARY
            or (name == "content-length" and not _LENGTH.fullmatch(value))
            or (name == "host" and not is_host(value))
            or (name == "connection" and value.lower() not in ("keep-alive", "close"))
        ):
            raise NotOrdinary
        if name not in _SELDOM_TWICE and len(line) <= LONGEST_KNOWN_LINE_BYTES:
            if len(self) >= MAX_KNOWN_LINES:
                self.clear()
            self[line] = name, value
        return name, value


class NotOrdinary(Exception):
    """A line that an ordinary head does not have."""


class HeadReader:
    """Reads heads, and remembers lines."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._site_of: dict[bytes, str] = {}  # by the whole request line

    def read(self, data: bytes, end: int) -> Head | None:
        """The head that ends at `end`, where its END begins; None if it is not ordinary."""
        if end > LONGEST_HEAD_BYTES:
            return None
        lines = data[:end].split(b"\r\n")
        site_id = self._site_of.get(lines[0]) or self._read_request_line(lines[0])
        if site_id is None or len(lines) > MOST_LINES:
            return None
        del lines[0]
        try:
            fields = dict(map(self._lines.__getitem__, lines))
        except NotOrdinary:
            return None
        length = fields.get("content-length")
        if length is None or "host" not in fields or len(fields) != len(lines):
            return None
        return site_id, fields, int(length)

    def _read_request_line(self, line: bytes) -> str | None:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            return None
        if len(self._site_of) >= MAX_KNOWN_SITES:
            self._site_of.clear()
        site_id = self._site_of[line] = match[1].decode()
        return site_id
