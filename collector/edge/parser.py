"""aiohttp's parser, but stricter, and it tells what it refuses."""

from typing import Any

from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import BadHttpMessage, InvalidURLError

from collector.edge.framing import Framing
from collector.edge.refusal import fault_of, read_refusal

ENOUGH = b"\0\r\n\r\n"
"""OnCommit to the parser, it refuses what it is reading."""


class RefusedHead(BadHttpMessage):
    """A head that is refused; `refusal` says how to answer it, or None where its request line cannot be read."""

    def __init__(self, head: bytes = b"", why: str = "Bad request") -> None:
        super().__init__(why)
        self.refusal = read_refusal(head, why)


class Parser:
    """The parser of a connection. It refuses where aiohttp's fails, as with the IndexError of yarl at `http://[::1]..@`."""

    def __init__(self, parser: Any, framing: Framing) -> None:
        self._framing = framing
        self._feed_data = parser.feed_data
        self.feed_eof = parser.feed_eof
        self._message_consumed = parser.message_consumed
        self.pause_reading = parser.pause_reading
        self.set_upgraded = parser.set_upgraded

    def message_consumed(self) -> None:
        """A message is taken up: its slot is free, if it is whole."""
        self._message_consumed()
        self._framing.free()

    def feed_data(self, data: bytes) -> Any:
        """What aiohttp's gives: messages, whether they end in an upgrade, and what is behind that.

        Raises RefusedHead.
        """
        framing = self._framing
        if data is ENOUGH:
            raise RefusedHead(framing.head)
        try:
            found = self._feed_data(framing.feed(data))
        except InvalidURLError as exc:  # so the request line cannot be read
            raise RefusedHead from exc
        except HttpProcessingError as exc:
            raise RefusedHead(framing.head) from exc
        except Exception as exc:
            raise RefusedHead from exc
        messages = []
        for message, payload in found[0]:
            head = framing.take()
            fault = fault_of(message, head)
            if fault is not None:
                raise RefusedHead(head, fault)
            # Behind some upgrades nothing is followed, and trailers there would be headers of the request behind.
            is_last = message.chunked and not head
            messages.append((message._replace(should_close=True) if is_last else message, payload))
        if framing.is_waiting:  # the parser takes no head where one ends, as with HTTP/2's preface
            raise RefusedHead(framing.head)
        return messages, *found[1:]
