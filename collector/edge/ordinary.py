"""Ordinary requests: complete collect requests, answered without a Request, a Response and a task for each.

Nearly all that comes is one POST in one piece whose head was seen before: a page sends the same head with every event
but for the Content-Length. So what a head says (the site, who is asking, whether its body is wanted at all) is worked
out once and remembered by its bytes, the digits of its Content-Length left out. A head that is new is read by aiohttp's
own parser; whatever that does not take for one whole ordinary request, and what is not in one piece, goes the plain
way, through the application. Both ways ask the same of a request in the same order, and give the same answers: the
tests of tests/edge run over both.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import NamedTuple

from aiohttp import HttpVersion11, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage

from collector.addresses import Address
from collector.edge import answers
from collector.edge.app import Traffic
from collector.edge.client_ip import client_address
from collector.edge.collect import CollectEndpoint
from collector.edge.rate_limit import over_limit
from collector.edge.request import too_large, unavailable
from collector.events import Dropped, Event, Reason, Refused
from collector.ingest.pipeline import Arrival, admit, arrive
from collector.metrics import SiteCounts
from collector.sites import Site

log = logging.getLogger(__name__)

PATH_BEGIN, PATH_END = "/public/", "/analytics/collect"
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"\r\nContent-Length: "
_LENGTH_LOWER = b"\r\ncontent-length: "  # HTTP/2 proxies and Node's clients
_MAX_DIGITS = 8

# Heads that change how a body is read, or that it is sent at all, are not ordinary.
_NOT_ORDINARY = (hdrs.CONTENT_ENCODING, hdrs.TRANSFER_ENCODING, hdrs.EXPECT, hdrs.UPGRADE)

# Browsers send 400 to 900 bytes; a longer head is read anew each time. Two generations of this many are 16 MB at most.
LONGEST_KNOWN_BYTES = 2_048
MAX_KNOWN = 4_096

MAX_STORED_ANSWERS = 1_000  # one per origin that was seen within a second

Write = Callable[[bytes, bool], object]
"""Send an answer; whether the connection is to be closed behind it. Called once, at once or later; must not raise."""


class Head(NamedTuple):
    """What a head says, judged by the present rules."""

    site: Site
    counts: SiteCounts
    client: Address
    origin: str | None
    arrival: Arrival
    dropped: Dropped | None  # the reason not to read the body
    close: bool  # the client asked for it


class Ordinary(NamedTuple):
    """One ordinary request."""

    head: Head
    body: bytes


class OrdinaryRequests:
    """Knows ordinary requests, and answers them."""

    def __init__(self, endpoint: CollectEndpoint, traffic: Traffic) -> None:
        self._endpoint = endpoint
        self._traffic = traffic
        self._rules = endpoint.rules
        self._young: dict[bytes, Head] = {}
        self._old: dict[bytes, Head] = {}
        self._parser: HttpRequestParser | None = None
        self._second = 0
        self._date = ""
        self._stored: dict[tuple[str | None, bool], bytes] = {}

    def find(self, peer: bytes, data: bytes) -> Ordinary | None:
        """The one ordinary request that `data` is, sent by a peer of that address; None if it is anything else.

        `data` must be what came since the end of the request before.
        """
        end = data.find(_END_OF_HEAD)
        at = data.find(_LENGTH, 0, end)
        if at < 0:
            at = data.find(_LENGTH_LOWER, 0, end)
        if at < 0 or end > LONGEST_KNOWN_BYTES:
            return None
        first_digit = at + len(_LENGTH)
        last_digit = data.find(b"\r", first_digit)
        digits = data[first_digit:last_digit]
        body_at = end + len(_END_OF_HEAD)
        if not digits.isdigit() or len(digits) > _MAX_DIGITS or len(data) - body_at != int(digits):
            return None
        if self._rules is not self._endpoint.rules:
            self._rules = self._endpoint.rules
            self._young, self._old = {}, {}
        key = b"".join((peer, data[:at], data[last_digit:end]))
        head = self._young.get(key) or self._old.get(key)
        if head is None:
            try:
                head = self._read(peer, data)
            except Exception:  # the plain way has an answer to that, too
                log.exception("the head of a request could not be read")
            if head is None:
                return None
        if key not in self._young:
            if len(self._young) >= MAX_KNOWN:
                self._young, self._old = {}, self._young
            self._young[key] = head
        return Ordinary(head, data[body_at:])

    def answer(self, request: Ordinary, write: Write) -> None:
        """Answer at once, or when the event is stored, and count what became of it."""
        traffic = self._traffic
        traffic.begin()
        head = request.head
        try:
            outcome = self._outcome(request)
        except Exception:
            log.exception("a request failed: POST of site %s", head.site.id)
            outcome = Refused(Reason.INTERNAL, "Internal error")
        if isinstance(outcome, Event):

            def told(stored: bool) -> None:
                if stored:
                    head.counts.count_stored()
                    close = head.close or traffic.draining
                    write(self._stored_answer(head.origin, close), close)
                else:
                    self._drop(head, unavailable(), write)
                traffic.end()

            self._endpoint.journal.submit(outcome, told)
        else:
            self._drop(head, outcome, write)
            traffic.end()

    def _outcome(self, request: Ordinary) -> Event | Dropped:
        """An event to be stored, or why not: asked in the order of the endpoint."""
        head, body = request
        rules = self._rules
        refused = over_limit(rules.buckets, head.client)
        if refused is not None:
            return refused
        if not self._endpoint.journal.can_append():
            return unavailable()
        dropped = head.dropped or too_large(len(body), rules.max_body_bytes)
        if dropped is not None:
            return dropped
        return self._endpoint.judge(head.site, head.arrival, body)

    def _drop(self, head: Head, outcome: Dropped, write: Write) -> None:
        head.counts.count_dropped(outcome.reason)
        answer = answers.dropped(head.origin, outcome)
        close = answer.close or head.close or self._traffic.draining
        self._tell_time()
        write(answer.to_bytes(self._date, close=close), close)

    def _stored_answer(self, origin: str | None, close: bool) -> bytes:
        self._tell_time()
        answer = self._stored.get((origin, close))
        if answer is None:
            if len(self._stored) >= MAX_STORED_ANSWERS:
                self._stored.clear()
            answer = self._stored[origin, close] = answers.stored(origin).to_bytes(self._date, close=close)
        return answer

    def _tell_time(self) -> None:
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
            self._stored.clear()

    def _read(self, peer: bytes, data: bytes) -> Head | None:
        """What a head says that is new; None where the request is not ordinary."""
        parser, self._parser = self._parser or _new_parser(), None
        try:
            messages, upgraded, _ = parser.feed_data(data)
        except HttpProcessingError:
            return None  # the plain way says so
        if len(messages) != 1 or upgraded:
            return None
        message, payload = messages[0]
        if not payload.is_eof():
            return None
        self._parser = parser  # it has taken in the whole request and nothing else: it is good for the next
        return self._judge(peer, message)

    def _judge(self, peer: bytes, message: RawRequestMessage) -> Head | None:
        path, headers = message.path, message.headers
        if (
            message.method != hdrs.METH_POST
            or message.version != HttpVersion11
            or not path.startswith(PATH_BEGIN)
            or not path.endswith(PATH_END)
            or any(name in headers for name in _NOT_ORDINARY)
        ):
            return None
        site = self._rules.sites.get(path[len(PATH_BEGIN) : -len(PATH_END)])
        if site is None:
            return None
        forwarded_for = headers.getall(hdrs.X_FORWARDED_FOR, ())
        client = client_address(peer.decode() or None, forwarded_for, self._rules.trusted_proxies)
        origin = headers.get(hdrs.ORIGIN)
        arrival = arrive(client, origin, headers.get(hdrs.REFERER), headers.get(hdrs.USER_AGENT))
        counts = self._endpoint.metrics.of_site(site.id)
        return Head(site, counts, client, origin, arrival, admit(site, arrival), message.should_close)


def _new_parser() -> HttpRequestParser:
    loop = asyncio.get_running_loop()
    return HttpRequestParser(BaseProtocol(loop), loop, 10**_MAX_DIGITS, auto_decompress=False)
