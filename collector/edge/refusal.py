"""Refusals of heads: what RFC 9112 forbids and aiohttp's parser takes, and what can be read of a head that is refused.

A page can read why only with CORS, and an operator can see whose events are lost only if they are counted: so a head
whose request line can be read is answered and counted as any refusal. Without a request line it is not HTTP.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import unquote

from aiohttp import HttpVersion10, hdrs

from collector.events import Reason, Refused

# What anybody may make us keep who has not said yet what he wants. HTTP/2 proxies join a page's cookies to one line,
# of up to as much.
MAX_HEAD_BYTES = 32_768
MAX_HEAD_LINES = 128

_METHOD = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(_METHOD + rb" ([!-~]+) HTTP/1\.[0-9]")
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


def fault_of(message: Any, head: bytes) -> str | None:
    """What is wrong with a request that aiohttp's parser took. `head`: its bytes, empty where they are not known."""
    if len(head) > MAX_HEAD_BYTES:
        return "Head is too large"
    if message.version.major != 1 or (head and not _REQUEST_LINE.fullmatch(head, 0, head.index(b"\r"))):
        return "Not HTTP 1.1"
    if not is_host(message.headers.get(hdrs.HOST, "")):
        return "Host must be a name or an address, with or without a port"
    if hdrs.TRANSFER_ENCODING not in message.headers:
        return None
    if message.version == HttpVersion10:
        return "Transfer-Encoding needs HTTP 1.1"  # RFC 9112, 6.1: proxies differ about where such a body ends
    return None if message.chunked else "Transfer-Encoding must end in chunked"


def read_refusal(head: bytes, why: str) -> Refusal | None:
    """How to answer a head that was refused, as far as it has come; None if its request line cannot be read."""
    line, ended, _ = head.partition(b"\r\n")
    too_large = is_too_large(head)
    match = (_REQUEST_LINE if ended or not too_large else _BEGUN).fullmatch(line)
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
