"""Refusals of heads: the rules of RFC 9112 that aiohttp's parser does not enforce, and the response to a refused head.

A page can read the reason only with CORS headers, and an operator sees whose events are lost only if they are counted.
So a head with a readable request line gets a response and a count like any other refusal. Without one, it is not HTTP.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

from collector.edge.routes import Routes
from collector.events import Reason, Refused

# The largest head kept in memory. HTTP/2 proxies join a page's cookies into one line that can be almost as long.
MAX_HEAD_BYTES = 32_768
MAX_HEAD_LINES = 128

_METHOD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# RFC 9112, 3.2: a path, a URL, `*` with OPTIONS, or host and port with CONNECT.
_REQUEST_LINE = re.compile(
    rb"(?:(?:OPTIONS (?=\*)|CONNECT |" + _METHOD + rb" (?=/|[A-Za-z][A-Za-z0-9+.-]*://)))([!-~]+) HTTP/1\.[0-9]\r\n"
)
_LF_ALONE = re.compile(rb"(?<!\r)\n")
_TOKEN_BEGUN = re.compile(_METHOD + rb"(?: |\Z)")
_BEGUN = re.compile(_METHOD + rb" ([!-~]+)(?: [!-~]*)?")
_ORIGIN = re.compile(rb"\r\nOrigin:[ \t]*([!-~](?:[ -~]*[!-~])?)[ \t]*\r\n", re.IGNORECASE)

# RFC 9110, 7.2 and RFC 3986, 3.2.2: a name may have nearly any character, and may be empty.
_HOST = re.compile(
    r"(?:\[(?:(?P<ipv6>[0-9A-Fa-f:.]+)|[Vv][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+)\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)"
    r"(?::[0-9]*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused head: the site and the origin it names, if any, and the refusal."""

    site_id: str | None
    origin: str | None
    refused: Refused


def is_host(value: str) -> bool:
    """Whether the value is valid for `Host`."""
    match = _HOST.fullmatch(value)
    if match is None:
        return False
    if match["ipv6"] is None:
        return True
    try:
        IPv6Address(match["ipv6"])
    except ValueError:
        return False
    return True


def is_too_large(head: bytes) -> bool:
    """Whether a complete or partial head exceeds the limits."""
    return len(head) > MAX_HEAD_BYTES or head.rstrip(b"\r\n").count(b"\r\n") > MAX_HEAD_LINES


def is_http_1(head: bytes) -> bool:
    """Whether the head begins with an HTTP/1 request line."""
    # PRI begins HTTP/2 (RFC 9113, 3.4). Behind it and an empty line, aiohttp's parser would wait for more, without end.
    return _REQUEST_LINE.match(head) is not None and not head.startswith(b"PRI ")


def is_broken(begun: bytes) -> bool:
    """Whether a partial head is already known to be invalid."""
    if _TOKEN_BEGUN.match(begun) is None or _LF_ALONE.search(begun) is not None:
        return True
    return b"\n" in begun and not is_http_1(begun)


def read_refusal(head: bytes, why: str, routes: Routes) -> Refusal | None:
    """Read a refused head, complete or partial. Return None if its request line cannot be read."""
    too_large = is_too_large(head)
    match = _REQUEST_LINE.match(head)
    if match is None and too_large and b"\n" not in head:
        match = _BEGUN.fullmatch(head)
    if match is None:
        return None
    origin = _ORIGIN.search(head)
    return Refusal(
        routes.site_of(match[1]),
        origin[1].decode() if origin else None,
        Refused(Reason.TOO_LARGE, f"Head is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEAD_LINES} lines")
        if too_large
        else Refused(Reason.INVALID, why),
    )
