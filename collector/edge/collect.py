"""The collect endpoint: a thin skin over the pipeline.

The order of what is asked, and so which answer a request gets that could get several: method, site, rate,
room to store, then the pipeline's steps before the body, the body itself, the pipeline's steps behind it, stored.
"""

import logging
from dataclasses import dataclass

from aiohttp import hdrs, web

from collector.addresses import AddressSet
from collector.clock import Clock
from collector.edge import responses
from collector.edge.client_ip import client_address
from collector.edge.rate_limit import TokenBuckets
from collector.edge.request import CLIENT, SITE, Bodies, BodyBroken, BodyLost, Handler, read_body, unavailable
from collector.events import Dropped, Event, Ignored, Reason, Refused
from collector.ingest.daily_key import KeyMissing
from collector.ingest.enrich import ClientIpPolicy
from collector.ingest.pipeline import Arrival, accept, admit, arrive
from collector.journal.flush.rejects import Rejected, Rejects
from collector.journal.journal import Journal
from collector.metrics import Metrics
from collector.sites import Site, Sites

PATH = "/public/{site_id:[^/]*}/analytics/collect{slash:/?}"
"""Any text may stand for the site: what is no site id is no site either. One slash may stand at the end."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a reload can change; the endpoint looks at the present ones for every request."""

    sites: Sites
    buckets: TokenBuckets
    trusted_proxies: AddressSet
    client_ip: ClientIpPolicy
    max_body_bytes: int
    body_timeout_s: float
    max_connections_per_client: int


class CollectEndpoint:
    """Answers collect requests, and counts what became of each."""

    def __init__(self, rules: Rules, journal: Journal, rejects: Rejects, metrics: Metrics, clock: Clock) -> None:
        self.rules = rules
        self.journal = journal
        self._rejects = rejects
        self.metrics = metrics
        self._clock = clock
        self._bodies = Bodies()

    @web.middleware
    async def resolve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Middleware: method, then site, then who is asking; sets SITE and CLIENT on what goes on."""
        site_id = request.match_info.get("site_id")
        if site_id is None:
            return await handler(request)
        if request.method == hdrs.METH_OPTIONS:
            return responses.preflight(request).to_response()
        if request.method != hdrs.METH_POST:
            return self.drop(request, Refused(Reason.METHOD, "Method not allowed"))
        site = self.rules.sites.get(site_id)
        if site is None:
            return self.drop(request, Refused(Reason.UNKNOWN_SITE, "Site not found"))
        request[SITE] = site
        forwarded_for = request.headers.getall(hdrs.X_FORWARDED_FOR, ())
        request[CLIENT] = client_address(request.remote, forwarded_for, self.rules.trusted_proxies)
        return await handler(request)

    async def collect(self, request: web.Request) -> web.StreamResponse:
        """The handler: an event in, an answer out."""
        site = request[SITE]
        try:
            outcome = await self._outcome(request, site)
        except BodyLost as exc:
            broken = isinstance(exc, BodyBroken)
            self.metrics.of_site(site.id).count_dropped(Reason.INVALID if broken else Reason.ABORTED)
            return responses.bad_body(request.headers.get(hdrs.ORIGIN)).to_response()  # if anybody is there to read it
        if isinstance(outcome, Event):
            self.metrics.of_site(site.id).count_stored()
            return responses.stored(request.headers.get(hdrs.ORIGIN)).to_response()
        return self.drop(request, outcome)

    async def nowhere(self, request: web.Request) -> web.StreamResponse:
        """The handler of every other path: it is counted, or nobody would see that a page sends to a wrong one."""
        return self.drop(request, Refused(Reason.NOT_FOUND, "Not found"))

    async def _outcome(self, request: web.Request, site: Site) -> Event | Dropped:
        if not self.journal.can_append():
            return unavailable()
        headers = request.headers
        arrival = arrive(
            request[CLIENT], headers.get(hdrs.ORIGIN), headers.get(hdrs.REFERER), headers.get(hdrs.USER_AGENT)
        )
        dropped = admit(site, arrival)
        if dropped is not None:
            return dropped
        body = await read_body(request, self._bodies, self.rules.max_body_bytes, self.rules.body_timeout_s)
        if isinstance(body, Refused):
            return body
        outcome = self.judge(site, arrival, body)
        if isinstance(outcome, Event) and not await self.journal.append(outcome):
            return unavailable()
        return outcome

    def judge(self, site: Site, arrival: Arrival, body: bytes) -> Event | Dropped:
        """What becomes of an event whose body is here: to be stored, or why not; what is invalid is kept."""
        received_us = self._clock.now_us()
        try:
            outcome = accept(site, arrival, body, received_us, self.rules.client_ip)
        except KeyMissing as exc:
            log.warning("an event was refused: its address cannot be hashed: %s", exc)
            return unavailable()
        if (
            isinstance(outcome, Ignored | Refused)
            and outcome.reason is Reason.INVALID
            and not self._rejects.keep(site.id, Rejected(received_us, outcome.message, body))
        ):
            self.metrics.rejected_lost.inc()
        return outcome

    def drop(self, request: web.Request, outcome: Dropped) -> web.Response:
        """Answer what is not stored, and count it for its site, or for the unknown ones."""
        site = request.get(SITE)
        counts = self.metrics.of_unknown if site is None else self.metrics.of_site(site.id)
        counts.count_dropped(outcome.reason)
        return responses.dropped(request.headers.get(hdrs.ORIGIN), outcome).to_response()
