"""The decision: the disposition of each request, on the fast path and on the standard path.

`before_body` decides what it can without the body, `with_body` the rest. `Decider._check` lists the checks of an event
in order, `_check_batch` those of a batch; the first one that returns something decides. `_finish` counts every request
and decides whether its connection closes.
"""

import asyncio
import hmac
import logging
from typing import Final, assert_never

from collector.clock import Clock
from collector.edge import responses
from collector.edge.batch import Batches
from collector.edge.content_coding import GZIP, NOT_GZIP, BrokenCoding, UnpackedTooLarge, codings, unpack
from collector.edge.files import Files
from collector.edge.in_flight import InFlight
from collector.edge.invalid_events import InvalidEvents
from collector.edge.opt_out import not_opted_out
from collector.edge.outcomes import too_large, unavailable
from collector.edge.pixel import Pixels
from collector.edge.rate_limit import too_many
from collector.edge.refusal import read_refusal
from collector.edge.request import Request
from collector.edge.responses import Replier, Response
from collector.edge.routes import Endpoint, Routes
from collector.edge.rules import Rules
from collector.events import Dropped, Event, Ignored, Reason, Refused
from collector.ingest.daily_key import KeyMissing
from collector.ingest.pipeline import (
    accept,
    invalid,
    ip_not_excluded,
    not_bot,
    not_localhost,
    origin_allowed,
    tracking_enabled,
)
from collector.ingest.schema import InvalidEvent
from collector.ingest.sender import accept_from_sender
from collector.journal.journal import Journal
from collector.journal.submission import Submission
from collector.metrics import Metrics
from collector.sender_keys import fingerprint
from collector.sites import origin_of

log = logging.getLogger(__name__)

# After a response that did not wait for the body, the connection stays open if the body has at most this many bytes,
# which are read and dropped. (The length of a chunked body is unknown, so its connection closes.)
UNREAD_KEPT_BYTES: Final = 16_384

# gzip is unpacked in the loop if it can be no larger: in at most 0.5 ms.
UNPACKED_AT_ONCE_BYTES: Final = 128 << 10

# Looking up an Enum's member costs 50 ns.
EVENT: Final = Endpoint.EVENT
BATCH: Final = Endpoint.BATCH

STORED: Final = object()
"""The outcome when the event is stored."""

GONE = Ignored(Reason.ABORTED, "Client has gone")  # its response is never sent
BROKEN = Refused(Reason.INVALID, "Bad request")


class Decider:
    """Decides and counts requests, and submits accepted events to the journal."""

    def __init__(
        self,
        rules: Rules,
        routes: Routes,
        files: Files,
        journal: Journal,
        invalid_events: InvalidEvents,
        batches: Batches,
        pixels: Pixels,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.rules = rules
        self.routes: Final = routes
        self.journal = journal
        self.metrics = metrics
        self._files: Final = files
        self._counts: Final = metrics.counts
        self.in_flight = InFlight()
        self._invalid_events = invalid_events
        self.batches: Final = batches
        self._pixels: Final = pixels
        self._in_steps: Final[set[asyncio.Task[None]]] = set()
        self._clock = clock

    def before_body(self, request: Request) -> Response | None:
        """Return the response if it needs no body.

        If None, the caller must call exactly one of `with_body`, `with_late_body`, `drop`, `lose`, `refuse_body` and
        `fail`.
        """
        self.in_flight.count += 1
        try:
            outcome = self._check(request)
        except Exception:  # noqa: BLE001 - `fail` logs it
            return self.fail(request)
        return None if outcome is None else self._finish_early(request, outcome)

    def with_body(self, request: Request, body: bytes, replier: Replier) -> None:
        """Reply now, or once the event is stored."""
        if request.in_steps:
            task = asyncio.get_running_loop().create_task(self._by_steps(request, body, replier))
            self._in_steps.add(task)
            task.add_done_callback(self._in_steps.discard)
            return
        outcome: Event | Dropped
        try:
            received_us = self._clock.now_us()
            if request.pixel_query is not None:
                body = self._pixels.event(request, received_us)
            if request.is_sender:
                rules = self.rules
                outcome = accept_from_sender(request.site, body, received_us, rules.retention_days, rules.client_ip)
            else:
                outcome = accept(request, body, received_us, self.rules.client_ip)
            if isinstance(outcome, Event):
                self.journal.submit(_Submitted(outcome, self, request, replier))
                return
            if outcome.reason is Reason.INVALID:
                self._invalid_events.keep(request, received_us, outcome.message, body)
        except KeyMissing as exc:
            log.warning("an event was refused: its address cannot be hashed: %s", exc)
            outcome = unavailable()
        except Exception:  # noqa: BLE001 - `fail` logs it
            replier.reply(request, self.fail(request))
            return
        replier.reply(request, self._finish(request, outcome))

    def with_late_body(self, request: Request, body: bytes, replier: Replier) -> None:
        """The same for a body that arrived after its head: the disk may have filled up in between."""
        refused = self.able_to_store(request)
        if refused is None:
            self.with_body(request, body, replier)
        else:
            replier.reply(request, self._finish(request, refused))

    async def _by_steps(self, request: Request, body: bytes, replier: Replier) -> None:
        """Reply to a batch, or to an event whose body is packed."""
        outcome: Response | Dropped
        try:
            if request.route.endpoint is BATCH:
                outcome = await self.batches.respond(request, body, self.rules)
            else:
                unpacked = await self._unpacked(request, body)
                if isinstance(unpacked, bytes):
                    request.in_steps = False
                    self.with_late_body(request, unpacked, replier)
                    return
                outcome = unpacked
        except Exception:  # noqa: BLE001 - `fail` logs it
            replier.reply(request, self.fail(request))
            return
        replier.reply(request, self._finish(request, outcome))

    async def _unpacked(self, request: Request, packed: bytes) -> bytes | Dropped:
        max_bytes = self.rules.max_body_bytes
        try:
            if max_bytes <= UNPACKED_AT_ONCE_BYTES:
                return unpack(packed, max_bytes)
            return await self.batches.unpack(packed, max_bytes)
        except UnpackedTooLarge:
            return too_large(max_bytes)
        except BrokenCoding:
            return invalid(request.site, InvalidEvent(NOT_GZIP))

    def drop(self, request: Request, outcome: Dropped) -> Response:
        """The response to a request whose body is late, is too large, or finds no room."""
        return self._finish_early(request, outcome)

    def lose(self, request: Request) -> None:
        """Count a request whose client left before its body arrived."""
        self._finish(request, GONE)

    def refuse_body(self, request: Request) -> Response:
        """The response to a body with broken framing."""
        self._finish(request, BROKEN)
        request.close = True
        return responses.bad_body(request.headers.get("origin"))  # of a pixel, `origin` is the page's

    def fail(self, request: Request | None) -> Response:
        """The response to an internal error. The log gets the exception; the client gets no details."""
        outcome = Refused(Reason.INTERNAL, "Internal error")
        if request is None:  # it fails before it could be read
            log.exception("a request failed")
            self._counts.of_unknown.count_dropped(outcome.reason)
            return responses.dropped(None, outcome)
        log.exception("a request failed: %s of site %.64s", request.method, request.route.site_id)
        return self._finish(request, outcome)

    def refuse_head(self, head: bytes, why: str) -> Response:
        """The response to a head that violates HTTP or is too large. It is counted for the site it names, if any."""
        refusal = read_refusal(head, why, self.routes)
        if refusal is None:
            self.metrics.bad_requests.inc()
            return responses.not_http()
        site = None if refusal.site_id is None else self.rules.sites.get(refusal.site_id)
        counts = self._counts.of_unknown if site is None else self._counts.of_site(site.id)
        counts.count_dropped(refusal.refused.reason)
        return responses.bad_head(refusal.origin, refusal.refused)

    def _check(self, request: Request) -> Response | Dropped | None:
        """Return the outcome of the first check that the request fails, or None. (Every outcome is true.)

        These checks need no body. `accept` (ingest/pipeline.py) checks JSON, schema and page path later. Checks that
        depend on HTTP are methods here, the others are steps of the pipeline. docs/contributing.md lists what a new
        check needs.
        """
        if request.route.endpoint is BATCH:
            return self._check_batch(request)
        return (
            self.is_event(request)
            or self.known_site(request)  # sets `site` and `counts`, which later checks use
            or self.within_rate(request)  # sets `client` and `is_sender`
            or self.key_known(request)
            or self.able_to_store(request)
            or tracking_enabled(request)
            or not_opted_out(request)
            or not_localhost(request)
            or origin_allowed(request)
            or ip_not_excluded(request)
            or not_bot(request)
            or self.size_allowed(request)
            or self.encoding_known(request)
        )

    def _check_batch(self, request: Request) -> Response | Dropped | None:
        """The same for a batch. Checks that only make its events ignored (202) come later: its answer counts them."""
        request.in_steps = True
        return (
            self.known_site(request)
            or self.within_rate(request)
            or self.key_known(request)
            or self.able_to_store(request)
            or origin_allowed(request)
            or self.size_allowed(request)
            or self.encoding_known(request)
        )

    # The checks. Each returns None if the request passes.

    def is_event(self, request: Request) -> Response | Refused | None:
        """Respond here to all requests that are no events; they cost no token."""
        endpoint = request.route.endpoint
        if endpoint is EVENT:
            return None
        match endpoint:
            case Endpoint.PREFLIGHT:
                return responses.preflight(request.origin, request.headers.get("access-control-request-headers"))
            case Endpoint.HEALTH:
                return responses.health(self.journal.can_append() and not self.in_flight.draining)
            case Endpoint.FILE:
                return self.file_of(request)
            case Endpoint.PIXEL:
                return begin_pixel(request)
            case Endpoint.WRONG_METHOD:
                return Refused(Reason.METHOD, "Method not allowed")
            case Endpoint.NOTHING:  # counted, so that operators see pages that send to a wrong path
                return Refused(Reason.NOT_FOUND, "Not found")
            case Endpoint.EVENT | Endpoint.BATCH:
                raise AssertionError
            case _:
                assert_never(endpoint)

    def file_of(self, request: Request) -> Response | Refused:
        """The file that is requested. Below a site it is there only if the site is."""
        route = request.route
        refused = None if route.site_id is None else self.known_site(request)
        if refused is not None:
            return refused
        return self._files.respond(
            route.file, request.headers.get("accept-encoding"), request.headers.get("if-none-match")
        )

    def known_site(self, request: Request) -> Refused | None:
        site = self.rules.sites.get(request.route.site_id or "")
        if site is None:
            return Refused(Reason.UNKNOWN_SITE, "Site not found")
        request.site = site
        request.counts = self._counts.of_site(site.id)
        return None

    def within_rate(self, request: Request) -> Refused | None:
        """Take one of the client's tokens, unless it has a key."""
        if request.site.keys and brings_key(request):
            request.is_sender = True
            return None
        rules = self.rules
        client = rules.peers.client(request.peer, request.headers)
        request.client = client.address
        wait_ns = rules.buckets.take(client)
        return too_many(rules.buckets, wait_ns) if wait_ns else None

    def key_known(self, request: Request) -> Refused | None:
        """Refuse a key that is not the site's. Other schemes, and sites without keys, ignore the header."""
        if not request.site.keys or request.is_sender or bearer(request) is None:
            return None
        return Refused(Reason.UNAUTHORIZED, "The key is not one of this site's")

    def able_to_store(self, request: Request) -> Refused | None:
        return None if self.journal.unready_reason() is None else unavailable()

    def size_allowed(self, request: Request) -> Refused | None:
        body_bytes, max_bytes = request.body_bytes, self.max_bytes(request)
        return None if body_bytes is None or body_bytes <= max_bytes else too_large(max_bytes)

    def encoding_known(self, request: Request) -> Refused | None:
        header = request.headers.get("content-encoding")
        if header is None:
            return None
        found = codings(header)
        if not found:
            return None
        if len(found) == 1 and found[0] in GZIP:
            request.in_steps = request.is_packed = True
            return None
        return Refused(Reason.ENCODING, "Content-Encoding is not supported")

    def max_bytes(self, request: Request) -> int:
        """The largest body that the request may have."""
        rules = self.rules
        return rules.max_batch_bytes if request.route.endpoint is BATCH else rules.max_body_bytes

    def committed(self, request: Request, replier: Replier, stored: bool) -> None:
        """Reply once the event is stored or has failed. Never raises: the journal would treat it as its own failure."""
        try:
            response = self._finish(request, STORED if stored else unavailable())
        except Exception:
            log.exception("a response failed: %s of site %.64s", request.method, request.route.site_id)
            response = None
        replier.reply(request, response)

    def _finish_early(self, request: Request, outcome: Response | Dropped) -> Response:
        """Finish a request whose body was not read."""
        if request.body_bytes is None or request.body_bytes > UNREAD_KEPT_BYTES:
            request.close = True
        return self._finish(request, outcome)

    def _finish(self, request: Request, outcome: object) -> Response:
        """Count the request and make its response. `outcome`: STORED, a Dropped, or a Response (not counted)."""
        self.in_flight.count -= 1
        counts = request.counts or self._counts.of_unknown
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
        if request.pixel_query is not None:
            self.metrics.pixels.labels("stored" if outcome is STORED else "dropped").inc()
            return responses.pixel(request.headers.get("origin"), response)
        return response


def begin_pixel(request: Request) -> Response | None:
    """Treat the request as an event of the page that shows the image. Respond to HEAD here: it stores nothing.

    Mail proxies may send HEAD before GET, and would be counted twice.
    """
    headers = request.headers
    if request.method == "HEAD":
        return responses.pixel(headers.get("origin"))
    request.origin = origin_of(request.referer)
    for name in ("authorization", "content-encoding"):  # images are no senders, and have no bodies
        headers.pop(name, None)
    return None


def bearer(request: Request) -> str | None:
    """The key that the request brings, which may be empty. None: it brings none, or uses another scheme."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def brings_key(request: Request) -> bool:
    """Whether the request brings one of its site's keys. Takes as long for each wrong key."""
    key = bearer(request)
    if key is None:
        return False
    found = fingerprint(key).encode()
    matches = [hmac.compare_digest(found, known.encode()) for known in request.site.keys]
    return any(matches)


class _Submitted(Submission):
    """The event of a request that waits for its response."""

    def __init__(self, event: Event, decider: Decider, request: Request, replier: Replier) -> None:
        super().__init__(event)
        self._decider: Final = decider
        self._request: Final = request
        self._replier: Final = replier

    def done(self, stored: bool) -> None:
        self._decider.committed(self._request, self._replier, stored)
