"""The header `Forwarded` (RFC 7239), read from the right.

    Forwarded: for=192.0.2.60;proto=https, for="[2001:db8::7]:4711";by=203.0.113.43

Each proxy appends an element. Whatever the client has written further left, such as an open quotation mark, must not
change how the last element is read. So the elements are split from the right too.
"""

import re
from collections.abc import Iterator
from typing import Final

UNKNOWN: Final = "unknown"
"""RFC 7239, 6.2: the proxy does not say who its client is."""

# Unquoted values may have a port, or be an IPv6 address: the RFC wants quotes there, but some proxies omit them.
_PAIR: Final = r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*+"|[^\s;,"=]++)"""
# Possessive: with 32 KB of blanks, backtracking would take a minute.
_ELEMENT: Final = re.compile(rf"[ \t]*+(?:{_PAIR}[ \t]*+)?+(?:;[ \t]*+(?:{_PAIR}[ \t]*+)?+)*+")
_PAIRS: Final = re.compile(_PAIR)
_QUOTED_PAIR: Final = re.compile(r"\\(.)")


def clients_from_the_right(header: str) -> Iterator[str]:
    """The client that each element names, such as `[2001:db8::7]:4711`. Empty elements are skipped.

    UNKNOWN for an element that names none or several, or that violates the RFC. Takes linear time: at most 6 ms for
    32 KB, the largest head.
    """
    end = len(header)
    while True:
        while end > 0 and header[end - 1] in ", \t":
            end -= 1
        if end <= 0:
            return
        start = _start(header, end)
        yield _client_of(header[start:end])
        end = start - 1


def _start(header: str, end: int) -> int:
    """Where the element starts that ends at `end`: behind a comma outside of quotation marks."""
    at, comma = end, header.rfind(",", 0, end)
    while (quote := header.rfind('"', comma + 1, at)) >= 0:
        # In a valid element, `="` only ever opens a quoted string: a quotation mark inside one follows a backslash.
        at = header.rfind('="', 0, quote)
        if at < 0:
            return 0
        if at < comma:
            comma = header.rfind(",", 0, at)
    return comma + 1


def _client_of(element: str) -> str:
    if not _ELEMENT.fullmatch(element):
        return UNKNOWN
    clients = [value for name, value in _PAIRS.findall(element) if name.lower() == "for"]
    if len(clients) != 1:
        return UNKNOWN
    client: str = clients[0]
    if client.startswith('"'):
        client = client[1:-1]
        if "\\" in client:
            client = _QUOTED_PAIR.sub(r"\1", client)
    return client.strip(" \t") or UNKNOWN
