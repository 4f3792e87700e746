"""The public application: one endpoint, its middlewares, and the server that speaks its HTTP."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from collector.edge import answers
from collector.edge.collect import PATH, CollectEndpoint
from collector.edge.rate_limit import rate_limit
from collector.edge.request import Handler
from collector.events import Reason, Refused
from collector.metrics import Metrics

log = logging.getLogger(__name__)

# After an answer that did not wait for the body, the rest of it is read and dropped for so long, then the
# connection is closed: closing at once would reset it, and the client would never see the answer.
LINGERING_S = 2.0


class Traffic:
    """The requests under way, and whether their answers should close their connections."""

    def __init__(self) -> None:
        self.under_way = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The outermost middleware."""
        self.under_way += 1
        self._idle.clear()
        try:
            response = await handler(request)
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._idle.set()
        if self.draining:
            response.force_close()
        return response

    async def idle(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()


def build_app(endpoint: CollectEndpoint, traffic: Traffic) -> web.Application:
    """The public application."""

    @web.middleware
    async def hide_faults(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException:
            return answers.not_found(request)  # a target that aiohttp's router knows no route for, such as `*`
        except Exception:
            log.exception("a request failed: %s %s", request.method, request.path[:200])
            return endpoint.drop(request, Refused(Reason.INTERNAL, "Internal error"))

    app = web.Application(
        middlewares=[
            traffic.middleware,
            hide_faults,
            endpoint.resolve,
            rate_limit(lambda: endpoint.rules.buckets, endpoint.drop),
        ]
    )
    app.router.add_route("*", PATH, endpoint.collect, expect_handler=_no_answer_yet)
    app.router.add_route("*", "/{path:.*}", _not_found, expect_handler=_no_answer_yet)
    return app


async def _not_found(request: web.Request) -> web.Response:
    return answers.not_found(request)


async def _no_answer_yet(request: web.Request) -> None:
    """`Expect: 100-continue` is answered where the body is read, once it is wanted."""


class _Connection(web.RequestHandler):
    """One connection. What is not HTTP gets a fixed text: aiohttp's own quotes what was sent, and logs 11 lines."""

    count_bad_request: Callable[[], None]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # When a body's framing breaks, aiohttp queues its 400 behind the request under way, and leaves that waiting
        # for a body that can no longer come. These two names are private; tests/edge/test_request.py holds them.
        if self._messages and self._current_request and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._current_request.content.set_exception(web.RequestPayloadError("bad framing"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status != 400:
            return super().handle_error(request, status, exc, message)
        self.count_bad_request()
        return answers.not_http()


class Server(web.Server):
    """aiohttp's server of an application that is set up, with connections of ours."""

    def __init__(self, app: web.AppRunner, metrics: Metrics, keepalive_timeout_s: float) -> None:
        assert app.server is not None
        super().__init__(app.server.request_handler, request_factory=app.server.request_factory)
        self._count_bad_request = metrics.bad_requests.inc
        self._options: dict[str, Any] = {
            "keepalive_timeout": keepalive_timeout_s,
            "lingering_time": LINGERING_S,
            "auto_decompress": False,  # an encoding is refused, never unpacked
            "access_log": None,
        }

    def __call__(self) -> web.RequestHandler:
        connection = _Connection(self, loop=asyncio.get_running_loop(), **self._options)
        connection.count_bad_request = self._count_bad_request
        return connection
