"""The public application: one endpoint and its middlewares, and the path that balancers ask."""

import asyncio
import logging

from aiohttp import hdrs, web

from collector.edge import responses
from collector.edge.collect import PATH, CollectEndpoint
from collector.edge.rate_limit import rate_limit
from collector.edge.request import Handler
from collector.events import Reason, Refused

HEALTH = "/healthz"

log = logging.getLogger(__name__)

# A connection that idles may hold so much of a body that was not wanted. Up to 250 KB come in one piece: 10,000
# connections would hold 2.5 GB, for as long as the keep-alive timeout.
UNREAD_KEPT_BYTES = 16_384


class InFlight:
    """The requests under way, and whether their answers should close their connections."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The outermost middleware."""
        self.begin()
        try:
            response = await handler(request)
        finally:
            self.end()
        if self.draining or _leaves_much_unread(request) or getattr(request.protocol, "closes", False):
            response.force_close()
        return response

    def begin(self) -> None:
        """One more request is under way."""
        if not self.in_flight:
            self._idle.clear()
        self.in_flight += 1

    def end(self) -> None:
        """It is answered."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()


def build_app(endpoint: CollectEndpoint, traffic: InFlight) -> web.Application:
    """The public application."""

    @web.middleware
    async def hide_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Exception:
            log.exception("a request failed: %s %s", request.method, request.path[:200])
            return endpoint.drop(request, Refused(Reason.INTERNAL, "Internal error"))

    async def health(request: web.Request) -> web.StreamResponse:
        """Whether events are taken. It is no event, and costs no token; an event that is sent here went astray."""
        if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
            return responses.health(endpoint.journal.can_append() and not traffic.draining).to_response()
        response = endpoint.drop(request, Refused(Reason.METHOD, "Method not allowed"))
        response.headers[hdrs.ALLOW] = f"{hdrs.METH_GET}, {hdrs.METH_HEAD}"
        return response

    app = web.Application(
        middlewares=[
            traffic.middleware,
            hide_faults,
            endpoint.resolve,
            rate_limit(lambda: endpoint.rules.buckets, endpoint.drop),
        ]
    )
    app.router.add_route("*", PATH, endpoint.collect, expect_handler=_no_answer_yet)
    app.router.add_route("*", HEALTH, health, expect_handler=_no_answer_yet)
    nowhere = app.router.add_route("*", "/{path:.*}", endpoint.nowhere, expect_handler=_no_answer_yet)
    look_up = app.router.resolve

    async def resolve(request: web.Request) -> web.UrlMappingMatchInfo:
        """Of a target that no route can match, such as `*`, aiohttp would answer `Expect` itself, and quote it."""
        match = await look_up(request)
        return match if match.http_exception is None else web.UrlMappingMatchInfo({}, nowhere)

    app.router.resolve = resolve  # type: ignore[method-assign]  # a router of one's own is deprecated
    return app


def _leaves_much_unread(request: web.Request) -> bool:
    """Whether aiohttp, which keeps a request until the next, would keep much of a body that nobody has read."""
    size_bytes = request.content_length
    return not request.content.at_eof() and (size_bytes is None or size_bytes > UNREAD_KEPT_BYTES)


async def _no_answer_yet(request: web.Request) -> None:
    """`Expect: 100-continue` is answered where the body is read, once it is wanted."""
