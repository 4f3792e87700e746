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
_PAIR: Final = r"""[!#$%&'*+.^_`|~0-9A-Za-z-]+=(?:"(?:[^"\\]|\\.)*+"|[^\s;,"=]++)"""
# Possessive: with 32 KB of blanks, backtracking would take a minute.
_ELEMENT: Final = re.compile(rf"[ \t]*+(?:{_PAIR}[ \t]*+)?+(?:;[ \t]*+(?:{_PAIR}[ \t]*+)?+)*+")
_PAIRS: Final = re.compile(_PAIR)
_QUOTED_PAIR: Final = re.compile(r"\\(.)")


def clients_from_the_right(header: str) -> Iterator[str]:
    """The client that each element names, such as `[2001:db8::7]:4711`. Empty: so is the element.

    UNKNOWN for an element that names none or several, or that violates the RFC.
    """
    for element in _elements(header):
        yield _client_of(element) if element.strip(" \t") else ""


def _elements(header: str) -> Iterator[str]:
    """The elements from the last to the first, split at commas outside of quotation marks, in linear time."""
    end = at = len(header)
    comma = header.rfind(",")
    while True:
        quote = header.rfind('"', comma + 1, at)
        if quote < 0:
            yield header[comma + 1 : end]
            if comma < 0:
                return
            end = at = comma
            comma = header.rfind(",", 0, at)
            continue
        # In a valid element, `="` only ever opens a quoted string: a quotation mark inside one follows a backslash.
        at = header.rfind('="', 0, quote)
        if at < 0:
            yield header[:end]
            return
        if at <= comma:
            comma = header.rfind(",", 0, at)


def _client_of(element: str) -> str:
    if not _ELEMENT.fullmatch(element):
        return UNKNOWN
    pairs = (pair.partition("=") for pair in _PAIRS.findall(element))
    clients = [value for name, _, value in pairs if name.lower() == "for"]
    if len(clients) != 1:
        return UNKNOWN
    client = clients[0]
    return (_QUOTED_PAIR.sub(r"\1", client[1:-1]) if client.startswith('"') else client) or UNKNOWN
