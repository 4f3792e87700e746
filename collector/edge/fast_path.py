"""Ordinary requests: complete collect requests, answered without a Request, a Response and a task for each.

Nearly all that comes is one POST in one piece with nothing special about it. What is not, and what is not in one piece,
goes the plain way, through the application. Both ways ask the same of a request in the same order, and give the same
answers: the tests of tests/edge run over both.
"""

import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Final

from collector.addresses import Address, parse_address
from collector.edge import responses
from collector.edge.app import UNREAD_KEPT_BYTES, InFlight
from collector.edge.client_ip import client_address
from collector.edge.collect import CollectEndpoint, Rules
from collector.edge.head import END, HeadReader
from collector.edge.rate_limit import over_limit
from collector.edge.request import too_large, unavailable
from collector.events import Dropped, Event, Reason, Refused
from collector.ingest.pipeline import OF_THE_PAGE, Arrival, admit, arrive, ip_not_excluded
from collector.metrics import SiteCounts
from collector.sites import Site, host_of

log = logging.getLogger(__name__)

MAX_KNOWN_PAGES = 4_096  # 2 MB at most
LONGEST_KNOWN_ORIGIN = 300  # "https://", a host of 253 characters, a port; what is longer could fill 16 MB
MAX_KNOWN_PEERS = 4_096  # 1 MB

Write = Callable[[bytes, bool], object]
"""Send an answer; whether the connection is to be closed behind it. Called once, at once or later; must not raise."""

_UNKNOWN: Final = Refused(Reason.INTERNAL, "")


Ordinary = tuple[Site, dict[str, str], bytes]
"""One ordinary request: its site, the fields of its head by their names in lower case, and its body."""


class OrdinaryRequests:
    """Knows ordinary requests, and answers them."""

    def __init__(self, endpoint: CollectEndpoint, traffic: InFlight) -> None:
        self._endpoint = endpoint
        self._traffic = traffic
        self._heads = HeadReader()
        self._rules = endpoint.rules
        # By site and origin: the answer to a page, as far as `Origin` decides it. Of the present rules.
        self._pages: dict[tuple[str, str], Dropped | None] = {}
        self._peers: dict[str | None, tuple[Address, bool]] = {}  # and whether it is trusted
        self._second = 0
        self._date = ""
        self._stored_end = b""  # of a 201 of the present second

    def find(self, data: bytes) -> Ordinary | None:
        """The one ordinary request that `data` is; None if it is anything else.

        `data` must be what came since the end of the request before.
        """
        end = data.find(END)
        try:
            head = self._heads.read(data, end) if end > 0 else None
        except Exception:  # the plain way has an answer to that, too
            log.exception("the head of a request could not be read")
            return None
        if head is None:
            return None
        site_id, fields, body_bytes = head
        body_at = end + len(END)
        if len(data) != body_at + body_bytes or body_bytes > UNREAD_KEPT_BYTES:
            return None
        site = self._endpoint.rules.sites.get(site_id)
        return (site, fields, data[body_at:]) if site is not None else None

    def answer(self, request: Ordinary, peer: str | None, write: Write) -> None:
        """Answer at once, or when the event is stored, and count what became of it; `peer` is who sent it."""
        traffic = self._traffic
        traffic.begin()
        site, fields, body = request
        origin = fields.get("origin")
        close = fields.get("connection", "").lower() == "close"
        counts = self._endpoint.metrics.of_site(site.id)
        try:
            outcome = self._outcome(site, fields, body, peer)
        except Exception:
            log.exception("a request failed: POST of site %s", site.id)
            outcome = Refused(Reason.INTERNAL, "Internal error")
        if isinstance(outcome, Event):
            try:
                # A closure would be 10 objects of each event for the garbage collector to look at; these are 4.
                self._endpoint.journal.submit(outcome, partial(self._told, site, counts, origin, close, write))
            except Exception:
                log.exception("a request failed: POST of site %s", site.id)
                outcome = Refused(Reason.INTERNAL, "Internal error")
            else:
                return
        try:
            counts.count_dropped(outcome.reason)
            self._write_dropped(origin, outcome, close, write)
        finally:
            traffic.end()

    def _told(
        self, site: Site, counts: SiteCounts, origin: str | None, close: bool, write: Write, stored: bool
    ) -> None:
        """Answer a request whose event is stored, or cannot be."""
        try:
            if stored:
                counts.count_stored()
                closing = close or self._traffic.draining
                write(self._stored_answer(origin, closing), closing)
            else:
                counts.count_dropped(Reason.UNAVAILABLE)
                self._write_dropped(origin, unavailable(), close, write)
        except Exception:  # the journal would take it for a fault of its own, and end the process
            log.exception("an answer failed: POST of site %s", site.id)
            write(b"", True)
        finally:
            self._traffic.end()

    def _outcome(self, site: Site, fields: dict[str, str], body: bytes, peer: str | None) -> Event | Dropped:
        """An event to be stored, or why not: asked in the order of the endpoint."""
        rules = self._endpoint.rules
        if rules is not self._rules:
            self._rules = rules
            self._pages.clear()
            self._peers.clear()
        client = self._client(peer, fields.get("x-forwarded-for"), rules)
        refused = over_limit(rules.buckets, client)
        if refused is not None:
            return refused
        if not self._endpoint.journal.can_append():
            return unavailable()
        arrival = arrive(client, fields.get("origin"), fields.get("referer"), fields.get("user-agent"))
        dropped = (
            self._admit_page(site, arrival)
            or ip_not_excluded(site, arrival)
            or too_large(len(body), rules.max_body_bytes)
        )
        return dropped or self._endpoint.judge(site, arrival, body)

    def _client(self, peer: str | None, forwarded_for: str | None, rules: Rules) -> Address:
        """`client_address`; of a peer that is no trusted proxy, and of a proxy with one address to tell, in short."""
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= MAX_KNOWN_PEERS:
                self._peers.clear()
            address = client_address(peer, (), rules.trusted_proxies)
            known = self._peers[peer] = address, address in rules.trusted_proxies
        address, trusted = known
        if not trusted or forwarded_for is None:
            return address
        # A zone (`::1%eth0`) is any text: of several addresses the first, which anyone may have written, could have all
        # the others for its zone.
        client = parse_address(forwarded_for) if "," not in forwarded_for else None
        return client or client_address(peer, (forwarded_for,), rules.trusted_proxies)

    def _admit_page(self, site: Site, arrival: Arrival) -> Dropped | None:
        """`admit` for the steps of the page, remembered where the origin alone decides."""
        origin = arrival.origin
        if origin is None:
            return admit(site, arrival, OF_THE_PAGE)
        known: Dropped | None = self._pages.get((site.id, origin), _UNKNOWN)
        if known is _UNKNOWN:
            known = admit(site, arrival, OF_THE_PAGE)
            if len(origin) <= LONGEST_KNOWN_ORIGIN and host_of(origin):  # without a host the referer is asked for it
                if len(self._pages) >= MAX_KNOWN_PAGES:
                    self._pages.clear()
                self._pages[site.id, origin] = known
        return known

    def _write_dropped(self, origin: str | None, outcome: Dropped, close: bool, write: Write) -> None:
        self._tell_time()
        answer = responses.dropped(origin, outcome)
        close = close or answer.close or self._traffic.draining
        write(answer.to_bytes(self._date, close=close), close)

    def _stored_answer(self, origin: str | None, close: bool) -> bytes:
        self._tell_time()
        return responses.stored_begin(origin, close=close) + self._stored_end

    def _tell_time(self) -> None:
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True)
            self._stored_end = responses.stored(None).end(self._date)
