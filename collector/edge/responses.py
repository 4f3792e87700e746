"""Responses: every outcome as HTTP, with CORS headers on all but the fixed texts.

201 and 202   {"message": ...}
4xx and 5xx   {"message": ..., "errors": [{"message", "code", "field"?}]}
"""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import ujson
from aiohttp import hdrs
from multidict import CIMultiDict

from collector.edge.request import Request
from collector.edge.routes import COLLECT_METHODS
from collector.events import Dropped, Ignored, Reason, Refused
from collector.recent import Recent

COLLECT_REASON = "Collect-Reason"
JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
PREFLIGHT_MAX_AGE_S = 86_400

SERVER = "collector"

CLOSE: Final = f"{hdrs.CONNECTION}: close\r\n\r\n".encode()

STORED = b'{"message":"Event received"}'

PIXEL = bytes.fromhex(
    "474946383961 0100 0100 80 00 00"  # GIF89a, 1 by 1, two colours
    "ffffff 000000 21f904 01 0000 00 00"  # white and black; the first one is transparent
    "2c 0000 0000 0100 0100 00 02 02 4401 00 3b"  # one transparent dot
)

LONGEST_KNOWN_ORIGIN: Final = 300  # room for "https://", a host and a port


class Response:
    """A response, independent of aiohttp. If `close`, the connection closes after it."""

    __slots__ = ("_head", "_headers", "body", "close", "status")

    def __init__(self, status: int, headers: CIMultiDict[str], body: bytes = b"", *, close: bool = False) -> None:
        self.status = status
        self._headers = headers
        self.body = body
        self.close = close
        self._head = b""

    @property
    def headers(self) -> CIMultiDict[str]:
        return self._headers

    def to_bytes(self, end: bytes, close: bool, has_body: bool = True) -> bytes:
        """The bytes that aiohttp would send over HTTP/1.1. `end`: the rest of the head, from the value of `Date`."""
        head = self._head = self._head or self.render_head()
        if close:  # aiohttp puts it after the date
            end = end[:-2] + CLOSE
        return b"".join((head, end, self.body)) if has_body else head + end

    def render_head(self) -> bytes:
        """Render the head up to the value of `Date`."""
        headers = list(self.headers.items())
        if self.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):  # RFC 9110, 8.6
            headers.append((hdrs.CONTENT_LENGTH, str(len(self.body))))
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *(f"{k}: {v}" for k, v in headers)]
        return "\r\n".join((*lines, f"{hdrs.DATE}: ")).encode()


class Replier:
    """Sends the response to a request. A class rather than a callback: compiled code calls it 0.1 us faster."""

    def reply(self, request: Request, response: Response | None) -> None:
        """Send the response; None: reset the connection. Called once, now or later. Must not raise."""
        raise NotImplementedError


class AwaitedReply(Replier):
    """The response is the result of a future."""

    def __init__(self) -> None:
        self.response: Final[asyncio.Future[Response | None]] = asyncio.get_running_loop().create_future()

    def reply(self, request: Request, response: Response | None) -> None:
        if not self.response.done():  # it is done if its task was cancelled
            self.response.set_result(response)


@dataclass(frozen=True, slots=True)
class Form:
    """The HTTP form of a refusal."""

    status: int
    code: str
    close: bool = False
    headers: tuple[tuple[str, str], ...] = ()


FORMS = {
    Reason.INVALID: Form(422, "VALIDATION_ERROR"),
    Reason.UNAUTHORIZED: Form(401, "UNAUTHORIZED", headers=((hdrs.WWW_AUTHENTICATE, "Bearer"),)),
    Reason.UNKNOWN_SITE: Form(404, "NOT_FOUND"),
    Reason.NOT_FOUND: Form(404, "NOT_FOUND"),
    Reason.ORIGIN_NOT_ALLOWED: Form(403, "FORBIDDEN"),
    Reason.METHOD: Form(405, "METHOD_NOT_ALLOWED"),
    Reason.TIMEOUT: Form(408, "TIMEOUT", close=True),
    Reason.TOO_LARGE: Form(413, "PAYLOAD_TOO_LARGE", close=True),
    Reason.ENCODING: Form(415, "UNSUPPORTED_ENCODING", headers=((hdrs.ACCEPT_ENCODING, "gzip"),)),
    Reason.RATE_LIMITED: Form(429, "RATE_LIMITED"),
    Reason.INTERNAL: Form(500, "INTERNAL_ERROR"),
    Reason.UNAVAILABLE: Form(503, "SERVICE_UNAVAILABLE"),
}


# For requests whose head or framing is refused.
FORMS_OF_HEADS = {
    Reason.INVALID: Form(400, "BAD_REQUEST", close=True),
    Reason.TOO_LARGE: Form(431, "HEADERS_TOO_LARGE", close=True),
}


class _Stored(Response):
    """The response to a stored event. Rendering the head from scratch would take 10 us."""

    __slots__ = ("_origin",)

    def __init__(self, origin: str) -> None:
        super().__init__(201, _NO_HEADERS, STORED)
        self._origin = origin
        self._head = origin.encode().join(_STORED_HEAD)

    @property
    def headers(self) -> CIMultiDict[str]:
        return _headers(self._origin)


_known_stored: Final[Recent[str, Response]] = Recent(4_096)  # by origin; 6 MB, and 10 MB at most


def stored(origin: str | None) -> Response:
    """The response to nearly all requests."""
    if origin is None:
        return _STORED_FOR_ANY
    response = _known_stored.get(origin)
    if response is None:
        if not origin or not _echoes(origin):
            return _STORED_FOR_ANY
        response = _Stored(origin)
        if len(origin) <= LONGEST_KNOWN_ORIGIN:
            _known_stored.put(origin, response)
    return response


def dropped(origin: str | None, outcome: Dropped, methods: str = COLLECT_METHODS) -> Response:
    """The response to an event that is not stored. `origin`: the header; `methods`: those that the path allows."""
    if isinstance(outcome, Ignored):
        return _ignored(origin, outcome)
    response = _refused(origin, outcome, FORMS[outcome.reason])
    if outcome.reason is Reason.METHOD:
        response.headers[hdrs.ALLOW] = methods
    return response


def bad_head(origin: str | None, refused: Refused) -> Response:
    """The response to a head with a readable request line that violates HTTP or is too large."""
    return _refused(origin, refused, FORMS_OF_HEADS[refused.reason])


def bad_body(origin: str | None) -> Response:
    """The response to a valid head with a broken body."""
    return _refused(origin, Refused(Reason.INVALID, "Bad request"), FORMS_OF_HEADS[Reason.INVALID])


def not_http() -> Response:
    """The fixed response to bytes that are not HTTP. No header depends on them."""
    return _text(400, b"Bad request\n", close=True)


def late_head() -> Response:
    """The fixed response to a head that is incomplete at its timeout."""
    return _text(408, b"Request timeout\n", close=True)


def health(takes_events: bool) -> Response:
    """The response to a load balancer's health check, without details."""
    return _text(200, b"ok") if takes_events else _text(503, b"unavailable")


def preflight(origin: str | None, asked: str | None) -> Response:
    """The response to a CORS preflight, which a browser may cache for a day.

    `asked`: the request's `Access-Control-Request-Headers`.
    """
    headers = _headers(origin)
    headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = COLLECT_METHODS
    headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = _allowed(asked) if asked and _echoes(asked) else hdrs.CONTENT_TYPE
    headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(PREFLIGHT_MAX_AGE_S)
    headers[hdrs.VARY] = f"{hdrs.ORIGIN}, {hdrs.ACCESS_CONTROL_REQUEST_HEADERS}"
    return Response(204, headers)


def _allowed(asked: str) -> str:
    """The headers that a page may send: those it asks for. Keys are for servers: one in a page is no secret."""
    if "authorization" not in asked.lower():
        return asked
    names = [name for each in asked.split(",") if (name := each.strip()) and name.lower() != "authorization"]
    return ", ".join(names) or hdrs.CONTENT_TYPE


def batch(origin: str | None, status: int, reason: str | None, body: bytes) -> Response:
    """The response to a batch that was read. `reason`: why its first event was not stored, if any was not."""
    headers = _headers(origin)
    if reason is not None:
        headers[COLLECT_REASON] = reason
    return Response(status, headers, body)


def pixel(origin: str | None, response: Response | None = None) -> Response:
    """The response to a pixel: always the image. `response`: what another request would get; its reason is kept."""
    headers = _headers(origin)
    headers[hdrs.CONTENT_TYPE] = "image/gif"
    headers[hdrs.CACHE_CONTROL] = "no-store"
    headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if response is not None and COLLECT_REASON in response.headers:
        headers[COLLECT_REASON] = response.headers[COLLECT_REASON]
    return Response(200, headers, PIXEL)


def _text(status: int, text: bytes, *, close: bool = False) -> Response:
    return Response(status, CIMultiDict({hdrs.SERVER: SERVER, hdrs.CONTENT_TYPE: TEXT}), text, close=close)


def _ignored(origin: str | None, outcome: Ignored) -> Response:
    headers = _headers(origin)
    headers[COLLECT_REASON] = outcome.reason.value
    return Response(202, headers, _json({"message": outcome.message}))


def _refused(origin: str | None, outcome: Refused, form: Form) -> Response:
    headers = _headers(origin)
    headers[COLLECT_REASON] = outcome.reason.value
    headers.extend(form.headers)
    if outcome.retry_after_s is not None:
        headers[hdrs.RETRY_AFTER] = str(outcome.retry_after_s)
    if outcome.limit is not None:
        headers["RateLimit-Limit"] = str(outcome.limit)
        headers["RateLimit-Remaining"] = "0"
        headers["RateLimit-Reset"] = str(outcome.retry_after_s)
    errors: list[dict[str, str]] = [
        {"message": str(error), "code": form.code} | ({"field": error.field} if error.field else {})
        for error in outcome.errors
    ]
    return _error(form.status, outcome.message, errors or form.code, headers, close=form.close)


def _headers(origin: str | None) -> CIMultiDict[str]:
    """The headers of every JSON response. CORS echoes the origin, as beacons send credentials, which `*` forbids."""
    return CIMultiDict(
        {
            hdrs.SERVER: SERVER,
            hdrs.CONTENT_TYPE: JSON,
            hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin if origin and _echoes(origin) else "*",
            hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS: "true",
            hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: f"{COLLECT_REASON}, {hdrs.RETRY_AFTER}",
            hdrs.VARY: hdrs.ORIGIN,
        }
    )


def _echoes(text: str) -> bool:
    """Whether a header's value can be sent back. Bytes that are not UTF-8 arrive as surrogates, and cannot."""
    return text.isascii() and text.isprintable()


def _error(
    status: int,
    message: str,
    errors: list[dict[str, str]] | str,
    headers: CIMultiDict[str],
    *,
    close: bool = False,
) -> Response:
    if isinstance(errors, str):
        errors = [{"message": message, "code": errors}]
    return Response(status, headers, _json({"message": message, "errors": errors}), close=close)


def _json(value: dict[str, Any]) -> bytes:
    return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode()


_NO_HEADERS: Final[CIMultiDict[str]] = CIMultiDict()
_STORED_FOR_ANY: Final = Response(201, _headers(None), STORED)
# What comes before the origin in the head of a 201, and what comes after it.
_STORED_HEAD: Final = Response(201, _headers("https://origin"), STORED).render_head().split(b"https://origin")
