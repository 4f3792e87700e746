"""Refusals of heads: what RFC 9112 forbids and aiohttp's parser takes, and what can be read of a head that is refused.

A page can read why only with CORS, and an operator can see whose events are lost only if they are counted: so a head
whose request line can be read is answered and counted as any refusal. Without a request line it is not HTTP.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import unquote

from collector.events import Reason, Refused

# The largest head that is kept in memory. HTTP/2 proxies join a page's cookies to one line of up to as much.
MAX_HEAD_BYTES = 32_768
MAX_HEAD_LINES = 128

_METHOD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# RFC 9112, 3.2: a path, a URL, `*` of OPTIONS, or the host and port of CONNECT.
_REQUEST_LINE = re.compile(
    rb"(?:(?:OPTIONS (?=\*)|CONNECT |" + _METHOD + rb" (?=/|[A-Za-z][A-Za-z0-9+.-]*://)))([!-~]+) HTTP/1\.[0-9]\r\n"
)
_LF_ALONE = re.compile(rb"(?<!\r)\n")
_TOKEN_BEGUN = re.compile(_METHOD + rb"(?: |\Z)")
_BEGUN = re.compile(_METHOD + rb" ([!-~]+)(?: [!-~]*)?")
_COLLECTS = re.compile(rb"(?:https?://[^/?#]*)?/public/([^/?#]*)/analytics/collect/?(?:[?#].*)?", re.IGNORECASE)
_ORIGIN = re.compile(rb"\r\nOrigin:[ \t]*([!-~](?:[ -~]*[!-~])?)[ \t]*\r\n", re.IGNORECASE)

# RFC 9110, 7.2 and RFC 3986, 3.2.2: a name may be anything, and nothing.
_HOST = re.compile(
    r"(?:\[(?:(?P<ipv6>[0-9A-Fa-f:.]+)|[Vv][0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+)\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)"
    r"(?::[0-9]*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refused head is answered: which site it names, if any, and which origin."""

    site_id: str | None
    origin: str | None
    refused: Refused


def is_host(value: str) -> bool:
    """Whether it is a value of `Host`."""
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
    """Whether a head, or what has come of it, is more than is taken."""
    return len(head) > MAX_HEAD_BYTES or head.rstrip(b"\r\n").count(b"\r\n") > MAX_HEAD_LINES


def is_http_1(head: bytes) -> bool:
    """Whether its request line is one of HTTP/1."""
    return _REQUEST_LINE.match(head) is not None


def is_broken(begun: bytes) -> bool:
    """Whether what has come of a head, which is not whole, shows already that it will not be taken."""
    if _TOKEN_BEGUN.match(begun) is None or _LF_ALONE.search(begun) is not None:
        return True
    return b"\n" in begun and not is_http_1(begun)


def read_refusal(head: bytes, why: str) -> Refusal | None:
    """How to answer a head that was refused, as far as it has come; None if its request line cannot be read."""
    too_large = is_too_large(head)
    match = _REQUEST_LINE.match(head)
    if match is None and too_large and b"\n" not in head:
        match = _BEGUN.fullmatch(head)
    if match is None:
        return None
    collects = _COLLECTS.fullmatch(match[1])
    origin = _ORIGIN.search(head)
    return Refusal(
        unquote(collects[1].decode()) if collects else None,
        origin[1].decode() if origin else None,
        Refused(Reason.TOO_LARGE, f"Head is larger than {MAX_HEAD_BYTES} bytes or {MAX_HEAD_LINES} lines")
        if too_large
        else Refused(Reason.INVALID, why),
    )
