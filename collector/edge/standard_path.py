"""The standard path: aiohttp's application, for requests that the fast path does not read.

Its middleware and handler are thin. They make a `Request` from aiohttp's request, read the body, and turn the decision
of collector/edge/decide.py into aiohttp's response.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from collector.edge.bodies import Bodies
from collector.edge.client_ip import LIST_HEADERS, SINGLE_HEADERS
from collector.edge.decide import Decider
from collector.edge.exchange import Exchange
from collector.edge.outcomes import late_body, too_large, unavailable
from collector.edge.refusal import MAX_HEAD_BYTES, MAX_HEAD_LINES, is_host
from collector.edge.request import Request
from collector.edge.responses import AwaitedReply, Response
from collector.edge.routes import Endpoint, Routes
from collector.events import Refused

# Several headers with one of these names are one list (RFC 9110, 5.3).
LISTS = (*LIST_HEADERS, "content-encoding", "transfer-encoding", "accept-encoding", "if-none-match")

# No lists, but if one header of several says that the client opts out, it does.
OPT_OUTS = ("dnt", "sec-gpc")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

ASKED: web.RequestKey[Request] = web.RequestKey("asked", Request)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""The type of handler that a middleware wraps."""


class BodyLost(Exception):
    """The rest of the body cannot arrive, because the client has disconnected or (`BodyBroken`) sends broken chunks."""


class BodyBroken(BodyLost):
    """The chunks are broken. The client may still be connected, and gets a response."""


class AiohttpHandler(web.RequestHandler):
    """aiohttp's protocol, with a reference to its exchange."""

    __slots__ = ("decider", "exchange")
    decider: Decider
    exchange: Exchange

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log no broken chunks of an unread body, which are the client's fault. aiohttp would log 11 lines for each."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Replace aiohttp's own error responses, which quote the request, name its version and log 11 lines."""
        if status == 400:
            return refuse(self.decider, self.exchange, "Bad request")
        return to_aiohttp(self.decider.fail(None), close=True)


class Sent(web.Response):
    """A response that notifies its exchange when it is written."""

    async def prepare(self, request: web.BaseRequest) -> Any:
        self._exchange = exchange_of(request)
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        self._exchange.responded(bool(self.keep_alive))


def exchange_of(request: web.BaseRequest) -> Exchange:
    return cast(AiohttpHandler, request.protocol).exchange


def to_aiohttp(response: Response, *, close: bool) -> Sent:
    sent = Sent(status=response.status, body=response.body, headers=response.headers)
    if close:
        sent.force_close()
    return sent


def refuse(decider: Decider, exchange: Exchange, why: str) -> Sent:
    """The response to a head that is refused."""
    exchange.is_refused = True
    sent = to_aiohttp(decider.refuse_head(exchange.head, why), close=True)
    sent.headers[hdrs.CONNECTION] = "close"  # aiohttp omits it, as it treats the request as HTTP/1.0
    return sent


class StandardPath:
    """Creates aiohttp's protocols, which all serve one application."""

    def __init__(self, decider: Decider, bodies: Bodies) -> None:
        self._decider = decider
        self._bodies = bodies
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.1)

    async def open(self) -> None:
        """Set up the application; call this before the first connection."""
        await self._runner.setup()

    async def close(self) -> None:
        await self._runner.cleanup()

    def begin(self, exchange: Exchange) -> None:
        """Let aiohttp serve this exchange."""
        server = self._runner.server
        assert server is not None
        handler = AiohttpHandler(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=0,  # there is no second request
            lingering_time=0,  # the connection does it
            auto_decompress=False,  # the decider unpacks it, within the limit
            access_log=cast(logging.Logger, None),
            # aiohttp limits each line separately; the connection limits the entire head.
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEAD_LINES,
        )
        handler.exchange = exchange
        handler.decider = self._decider
        exchange.begin(handler)

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._before_body])
        every = app.router.add_route("*", "/{path:.*}", self._with_body, expect_handler=_no_answer_yet)
        look_up = app.router.resolve

        async def resolve(request: web.Request) -> web.UrlMappingMatchInfo:
            """Route every target to the handler. For `*`, aiohttp itself would respond to `Expect`, and quote it."""
            match = await look_up(request)
            return match if match.http_exception is None else web.UrlMappingMatchInfo({}, every)

        app.router.resolve = resolve  # type: ignore[method-assign]  # custom routers are deprecated
        return app

    @web.middleware
    async def _before_body(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Run the checks that need no body, among them the rate limit."""
        exchange = exchange_of(request)
        exchange.reading(request.content)
        fault = fault_of(request)
        if fault is not None:
            return refuse(self._decider, exchange, fault)
        asked = to_request(request, exchange.peer, self._decider.routes)
        response = self._decider.before_body(asked)
        if response is not None:
            return to_aiohttp(response, close=asked.close or exchange.framing.closes)
        request[ASKED] = asked
        return await handler(request)

    async def _with_body(self, request: web.Request) -> web.StreamResponse:
        """Read the body and decide."""
        asked, decider = request[ASKED], self._decider
        response: Response | None
        try:
            body = await read_body(request, self._bodies, decider.max_bytes(asked), decider.rules.body_timeout_s)
        except BodyBroken:
            response = decider.refuse_body(asked)
        except BodyLost:
            decider.lose(asked)
            return web.Response(status=400)  # never sent, as the client has disconnected
        except asyncio.CancelledError:
            decider.lose(asked)
            raise
        except Exception:  # noqa: BLE001 - `fail` logs it
            response = decider.fail(asked)
        else:
            response = decider.drop(asked, body) if isinstance(body, Refused) else await self._decided(asked, body)
        if response is None:
            exchange_of(request).abort()
            return web.Response(status=500)  # never sent either
        return to_aiohttp(response, close=asked.close or exchange_of(request).framing.closes)

    async def _decided(self, asked: Request, body: bytes) -> Response | None:
        replier = AwaitedReply()
        self._decider.with_late_body(asked, body, replier)
        return await replier.response


def fault_of(request: web.BaseRequest) -> str | None:
    """What is wrong with a request that aiohttp's parser accepted, or None."""
    headers = request.headers
    if not is_host(headers.get(hdrs.HOST, "")):
        return "Host must be a name or an address, with or without a port"
    if hdrs.TRANSFER_ENCODING not in headers:
        return None
    if request.version == HttpVersion10:
        return "Transfer-Encoding needs HTTP 1.1"  # RFC 9112, 6.1: proxies disagree about where such a body ends
    codings = ",".join(headers.getall(hdrs.TRANSFER_ENCODING)).rpartition(",")[2]
    return None if codings.strip().lower() == "chunked" else "Transfer-Encoding must end in chunked"


def to_request(request: web.BaseRequest, peer: str | None, routes: Routes) -> Request:
    """Make a `Request` from aiohttp's."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers.setdefault(name.lower(), value)
    for name in (*LISTS, *OPT_OUTS):
        if name in headers:
            headers[name] = ",".join(request.headers.getall(name))
    for name in SINGLE_HEADERS:
        if name in headers and len(request.headers.getall(name)) > 1:
            headers[name] = ""  # nobody knows which one the proxy wrote
    is_chunked = "transfer-encoding" in headers
    if is_chunked:  # other transfer codings are refused like unknown content codings, gzip too
        names = (each.strip().lower() for each in headers["transfer-encoding"].split(","))
        others = [f"transfer {name}" for name in names if name not in ("", "chunked")]
        headers["content-encoding"] = ",".join([headers.get("content-encoding", ""), *others])
    route = routes.find(request.method, request.rel_url.raw_path)
    body_bytes = None if is_chunked else request.content_length or 0
    made = Request(request.method, route, peer, headers, body_bytes, close=False)  # aiohttp tracks that
    if route.endpoint is Endpoint.PIXEL:
        made.pixel_query = request.rel_url.raw_query_string
    return made


async def read_body(request: web.BaseRequest, bodies: Bodies, max_bytes: int, timeout_s: float) -> bytes | Refused:
    """Return the complete body, or the refusal if it is too large, late, or finds no room. Raises BodyLost."""
    try:
        if request.content.is_eof():  # it came with its head
            body = await request.content.read()
            return body if len(body) <= max_bytes else too_large(max_bytes)
        size_bytes = max_bytes if request.content_length is None else request.content_length
        if not bodies.take(size_bytes):
            return unavailable()
        try:
            async with asyncio.timeout(timeout_s):  # aiohttp has no limit of its own
                body = await _receive(request, max_bytes)
        finally:
            bodies.release(size_bytes)
        return body if len(body) <= max_bytes else too_large(max_bytes)
    except TimeoutError:
        return late_body()
    except web.RequestPayloadError as exc:
        raise BodyBroken from exc
    except ConnectionError as exc:
        raise BodyLost from exc
    except RuntimeError as exc:  # aiohttp raises it if the connection was lost before the read began
        if request.transport is not None:
            raise
        raise BodyLost from exc


async def _receive(request: web.BaseRequest, max_bytes: int) -> bytes:
    """Return the body. If it is too large, return a little more than `max_bytes` of it."""
    expected = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.version >= HttpVersion11
    if expected and request.transport is not None:
        # Sent only now, so a request that is refused without its body gets no 100, and its client sends no body.
        request.transport.write(CONTINUE)
    chunks = bytearray()
    while len(chunks) <= max_bytes and (chunk := await request.content.readany()):
        chunks += chunk
    return bytes(chunks)


async def _no_answer_yet(request: web.Request) -> None:
    """Do not respond to `Expect: 100-continue` yet; `_receive` does once the body is wanted."""
