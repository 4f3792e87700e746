"""The decision: what becomes of a request, whether it took the fast path or the standard path.

`before_body` decides what can be decided without the body, `with_body` the rest. The order of the checks is one list,
`Decider.checks`. The first check that returns something decides. Requests are counted, and it is decided whether their
connections close, in one place: `_finish`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from collector.clock import Clock
from collector.edge import responses
from collector.edge.client_ip import Peers
from collector.edge.in_flight import InFlight
from collector.edge.rate_limit import TokenBuckets, too_many
from collector.edge.refusal import read_refusal
from collector.edge.request import Endpoint, Request
from collector.edge.responses import Response
from collector.events import Dropped, Event, Ignored, Reason, Refused
from collector.ingest.daily_key import KeyMissing
from collector.ingest.enrich import ClientIpPolicy
from collector.ingest.pipeline import accept, ip_not_excluded, not_localhost, origin_allowed, tracking_enabled
from collector.journal.flush.rejects import Rejected, Rejects
from collector.journal.journal import Journal
from collector.metrics import Metrics
from collector.sites import Sites

log = logging.getLogger(__name__)

RETRY_STORING_S = 5

# A response that does not wait for the body leaves the connection open if no more than this has to be read and dropped.
# (With chunks nobody knows.)
UNREAD_KEPT_BYTES = 16_384

EVENT = Endpoint.EVENT  # an Enum's members cost 50 ns each to look up

STORED = object()
"""The outcome of a request whose event is stored."""

GONE = Ignored(Reason.ABORTED, "Client has gone")  # its response is never sent
BROKEN = Refused(Reason.INVALID, "Bad request")

Reply = Callable[[Request, Response | None], object]
"""Send the response; None: reset the connection. Called once, now or later. Must not raise."""

Check = Callable[[Request], Response | Dropped | None]
"""None: the next check is asked."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a reload can change; the present ones are looked at for every request."""

    sites: Sites
    buckets: TokenBuckets
    peers: Peers
    client_ip: ClientIpPolicy
    max_body_bytes: int
    body_timeout_s: float
    max_connections_per_client: int


class Decider:
    """Decides, counts, and hands what is accepted to the journal."""

    def __init__(self, rules: Rules, journal: Journal, rejects: Rejects, metrics: Metrics, clock: Clock) -> None:
        self.rules = rules
        self.journal = journal
        self.metrics = metrics
        self.in_flight = InFlight()
        self._rejects = rejects
        self._clock = clock
        # Those that need no body; with it come JSON, the schema and the page's path (ingest/pipeline.py, `accept`).
        # `known_site` sets request.site and request.counts, `within_rate` sets request.client: checks that use these
        # come later. What depends on HTTP is a method here, what depends on the event alone is a step of the pipeline.
        # docs/contributing.md says what a new check needs.
        self.checks: tuple[Check, ...] = (
            self.is_event,
            self.known_site,
            self.within_rate,
            self.able_to_store,
            tracking_enabled,
            not_localhost,
            origin_allowed,
            ip_not_excluded,
            self.size_allowed,
            self.encoding_known,
        )

    def before_body(self, request: Request) -> Response | None:
        """The response, if it needs no body. None: end with exactly one of the methods below."""
        self.in_flight.count += 1
        try:
            for check in self.checks:
                outcome = check(request)
                if outcome is not None:
                    break
            else:
                return None
        except Exception:  # noqa: BLE001 - it is logged
            return self.fail(request)
        return self._finish_early(request, outcome)

    def with_body(self, request: Request, body: bytes, reply: Reply) -> None:
        """Reply now, or when the event is stored."""
        received_us = self._clock.now_us()
        outcome: Event | Dropped
        try:
            outcome = accept(request, body, received_us, self.rules.client_ip)
            if isinstance(outcome, Event):
                # A closure would be more objects of each event for the garbage collector to look at.
                self.journal.submit(outcome, partial(self._on_commit, request, reply))
                return
            if outcome.reason is Reason.INVALID:
                self._keep(request, Rejected(received_us, outcome.message, body))
        except KeyMissing as exc:
            log.warning("an event was refused: its address cannot be hashed: %s", exc)
            outcome = unavailable()
        except Exception:  # noqa: BLE001 - it is logged
            reply(request, self.fail(request))
            return
        reply(request, self._finish(request, outcome))

    def with_late_body(self, request: Request, body: bytes, reply: Reply) -> None:
        """The same for a body that was waited for: meanwhile the disk may have become full."""
        refused = self.able_to_store(request)
        if refused is None:
            self.with_body(request, body, reply)
        else:
            reply(request, self._finish(request, refused))

    def drop(self, request: Request, outcome: Dropped) -> Response:
        """The response to a request whose body did not come in time, is too large, or has no room."""
        return self._finish_early(request, outcome)

    def lose(self, request: Request) -> None:
        """The client has gone before its body was here."""
        self._finish(request, GONE)

    def refuse_body(self, request: Request) -> Response:
        """The response to a body whose framing is broken."""
        self._finish(request, BROKEN)
        request.close = True
        return responses.bad_body(request.origin)

    def fail(self, request: Request | None) -> Response:
        """The response to a fault of ours. The log gets the exception, the client learns only that there was one."""
        outcome = Refused(Reason.INTERNAL, "Internal error")
        if request is None:  # it could not even be read
            log.exception("a request failed")
            self.metrics.of_unknown.count_dropped(outcome.reason)
            return responses.dropped(None, outcome)
        log.exception("a request failed: %s of site %.64s", request.method, request.route.site_id)
        return self._finish(request, outcome)

    def refuse_head(self, head: bytes, why: str) -> Response:
        """The response to a head that breaks HTTP, or is too large; counted for the site that it names, if any."""
        refusal = read_refusal(head, why)
        if refusal is None:
            self.metrics.bad_requests.inc()
            return responses.not_http()
        site = None if refusal.site_id is None else self.rules.sites.get(refusal.site_id)
        counts = self.metrics.of_unknown if site is None else self.metrics.of_site(site.id)
        counts.count_dropped(refusal.refused.reason)
        return responses.bad_head(refusal.origin, refusal.refused)

    # The checks.

    def is_event(self, request: Request) -> Response | Refused | None:
        """Other requests than events are answered here, and cost no token."""
        endpoint = request.route.endpoint
        if endpoint is EVENT:
            return None
        match endpoint:
            case Endpoint.PREFLIGHT:
                return responses.preflight(request.origin, request.headers.get("access-control-request-headers"))
            case Endpoint.HEALTH:
                return responses.health(self.journal.can_append() and not self.in_flight.draining)
            case Endpoint.WRONG_METHOD:
                return Refused(Reason.METHOD, "Method not allowed")
            case Endpoint.NOTHING:  # counted, or nobody would see that a page sends to a wrong path
                return Refused(Reason.NOT_FOUND, "Not found")
            case Endpoint.EVENT:
                raise AssertionError
            case _:
                assert_never(endpoint)

    def known_site(self, request: Request) -> Refused | None:
        site = self.rules.sites.get(request.route.site_id or "")
        if site is None:
            return Refused(Reason.UNKNOWN_SITE, "Site not found")
        request.site = site
        request.counts = self.metrics.of_site(site.id)
        return None

    def within_rate(self, request: Request) -> Refused | None:
        """Costs the client a token."""
        rules = self.rules
        client = request.client = rules.peers.client(request.peer, request.headers.get("x-forwarded-for"))
        wait_ns = rules.buckets.take(client)
        return too_many(rules.buckets, wait_ns) if wait_ns else None

    def able_to_store(self, request: Request) -> Refused | None:
        return None if self.journal.unready_reason() is None else unavailable()

    def size_allowed(self, request: Request) -> Refused | None:
        body_bytes, max_bytes = request.body_bytes, self.rules.max_body_bytes
        return None if body_bytes is None or body_bytes <= max_bytes else too_large(max_bytes)

    def encoding_known(self, request: Request) -> Refused | None:
        codings = request.headers.get("content-encoding")
        if codings is None or not {each.strip() for each in codings.lower().split(",")} - {"", "identity"}:
            return None
        return Refused(Reason.ENCODING, "Content-Encoding is not supported")

    def _keep(self, request: Request, rejected: Rejected) -> None:
        """Keep what is invalid, for its site's owner to look at."""
        if not self._rejects.keep(request.site.id, rejected):
            self.metrics.rejected_lost.inc()

    def _on_commit(self, request: Request, reply: Reply, stored: bool) -> None:
        """The event is stored, or cannot be. The journal would take an exception for a fault of its own."""
        try:
            response = self._finish(request, STORED if stored else unavailable())
        except Exception:
            log.exception("a response failed: %s of site %.64s", request.method, request.route.site_id)
            response = None
        reply(request, response)

    def _finish_early(self, request: Request, outcome: Response | Dropped) -> Response:
        """The body is still to come, or was never read."""
        if request.body_bytes is None or request.body_bytes > UNREAD_KEPT_BYTES:
            request.close = True
        return self._finish(request, outcome)

    def _finish(self, request: Request, outcome: object) -> Response:
        """Count the request, and make its response. `outcome`: STORED, a Dropped, or a Response that is not counted."""
        self.in_flight.count -= 1
        counts = request.counts or self.metrics.of_unknown
        if outcome is STORED:
            counts.count_stored()
            response = responses.stored(request.origin)
        elif isinstance(outcome, Response):
            response = outcome
        else:
            assert isinstance(outcome, Dropped)
            counts.count_dropped(outcome.reason)
            response = responses.dropped(request.origin, outcome, request.route.methods)
        if response.close or self.in_flight.draining:
            request.close = True
        return response


def unavailable() -> Refused:
    """The refusal of an event for which there is no room now."""
    return Refused(Reason.UNAVAILABLE, "Collector temporarily unavailable", retry_after_s=RETRY_STORING_S)


def late_body() -> Refused:
    return Refused(Reason.TIMEOUT, "Body was not received in time")


def too_large(max_bytes: int) -> Refused:
    return Refused(Reason.TOO_LARGE, f"Body is larger than {max_bytes} bytes")
