"""Answers: every outcome as an HTTP response, with CORS on all of them.

201 and 202   {"message": ...}
4xx and 5xx   {"message": ..., "errors": [{"message", "code", "field"?}]}
"""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import ujson
from aiohttp import hdrs, web
from multidict import CIMultiDict

from collector.events import Dropped, Ignored, Reason, Refused

COLLECT_REASON = "Collect-Reason"
JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
METHODS = "POST, OPTIONS"
PREFLIGHT_MAX_AGE_S = 86_400

SERVER = "collector"

STORED = b'{"message":"Event received"}'


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, before it is aiohttp's or bytes."""

    status: int
    headers: CIMultiDict[str]
    body: bytes = b""
    close: bool = False

    def to_response(self) -> web.Response:
        response = web.Response(status=self.status, body=self.body, headers=self.headers)
        if self.close:
            response.force_close()
        return response

    def to_bytes(self, date: str, *, close: bool) -> bytes:
        """What aiohttp makes of it for an HTTP/1.1 request, with that `Date`."""
        return self.begin(close=close) + self.end(date)

    def begin(self, *, close: bool) -> bytes:
        """The bytes before the date."""
        headers = [*self.headers.items(), (hdrs.CONTENT_LENGTH, str(len(self.body)))]
        if close or self.close:
            headers.append((hdrs.CONNECTION, "close"))
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", *(f"{k}: {v}" for k, v in headers)]
        return "\r\n".join((*lines, f"{hdrs.DATE}: ")).encode()

    def end(self, date: str) -> bytes:
        """The bytes from the date on."""
        return f"{date}\r\n\r\n".encode() + self.body


@dataclass(frozen=True, slots=True)
class Form:
    """How a refusal looks in HTTP."""

    status: int
    code: str
    close: bool = False
    headers: tuple[tuple[str, str], ...] = ()


FORMS = {
    Reason.INVALID: Form(422, "VALIDATION_ERROR"),
    Reason.UNKNOWN_SITE: Form(404, "NOT_FOUND"),
    Reason.NOT_FOUND: Form(404, "NOT_FOUND"),
    Reason.ORIGIN_NOT_ALLOWED: Form(403, "FORBIDDEN"),
    Reason.METHOD: Form(405, "METHOD_NOT_ALLOWED", headers=((hdrs.ALLOW, METHODS),)),
    Reason.TIMEOUT: Form(408, "TIMEOUT", close=True),
    Reason.TOO_LARGE: Form(413, "PAYLOAD_TOO_LARGE", close=True),
    Reason.ENCODING: Form(415, "UNSUPPORTED_ENCODING", headers=((hdrs.ACCEPT_ENCODING, "identity"),)),
    Reason.RATE_LIMITED: Form(429, "RATE_LIMITED"),
    Reason.INTERNAL: Form(500, "INTERNAL_ERROR"),
    Reason.UNAVAILABLE: Form(503, "SERVICE_UNAVAILABLE"),
}


# The refusal of a head is that of the whole request, whoever it is for.
FORMS_OF_HEADS = {
    Reason.INVALID: Form(400, "BAD_REQUEST", close=True),
    Reason.TOO_LARGE: Form(431, "HEADERS_TOO_LARGE", close=True),
}


def stored(origin: str | None) -> Answer:
    return Answer(201, _headers(origin), STORED)


def dropped(origin: str | None, outcome: Dropped) -> Answer:
    """The answer to what is not stored; `origin` is the request's header."""
    return (
        _ignored(origin, outcome) if isinstance(outcome, Ignored) else _refused(origin, outcome, FORMS[outcome.reason])
    )


class Last(web.Response):
    """A response behind which no other is sent: its client need not wait until the connection is closed."""

    _transport: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> Any:
        self._transport = request.transport
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()


def bad_head(origin: str | None, refused: Refused) -> web.Response:
    """The request line can be read, and something behind it breaks HTTP, or is too much."""
    answer = _refused(origin, refused, FORMS_OF_HEADS[refused.reason])
    response = Last(status=answer.status, body=answer.body, headers=answer.headers)
    response.headers[hdrs.CONNECTION] = "close"  # aiohttp answers what it cannot read in HTTP/1.0
    response.force_close()
    return response


def bad_body(origin: str | None) -> Answer:
    """The head was HTTP, the body's framing is not."""
    return _refused(origin, Refused(Reason.INVALID, "Bad request"), FORMS_OF_HEADS[Reason.INVALID])


def not_http() -> web.Response:
    """What came is not HTTP: a fixed text, and no header that depends on it."""
    response = web.Response(status=400, text="Bad request\n", headers={hdrs.SERVER: SERVER})
    response.force_close()
    return response


def late_head() -> Answer:
    """What came may become HTTP, but not in time; no header depends on it either."""
    return Answer(408, CIMultiDict({hdrs.SERVER: SERVER, hdrs.CONTENT_TYPE: TEXT}), b"Request timeout\n", close=True)


def health(takes_events: bool) -> Answer:
    """What a balancer is told, which is nothing but that."""
    headers = CIMultiDict({hdrs.SERVER: SERVER, hdrs.CONTENT_TYPE: TEXT})
    return Answer(200, headers, b"ok") if takes_events else Answer(503, headers, b"unavailable")


def preflight(request: web.BaseRequest) -> Answer:
    """What a browser asks before it sends anything but a plain form; it may remember the answer for a day."""
    headers = _headers(request.headers.get(hdrs.ORIGIN))
    headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = METHODS
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked if asked and _echoes(asked) else hdrs.CONTENT_TYPE
    headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(PREFLIGHT_MAX_AGE_S)
    headers[hdrs.VARY] = f"{hdrs.ORIGIN}, {hdrs.ACCESS_CONTROL_REQUEST_HEADERS}"
    return Answer(204, headers)


def _ignored(origin: str | None, outcome: Ignored) -> Answer:
    headers = _headers(origin)
    headers[COLLECT_REASON] = outcome.reason.value
    return Answer(202, headers, _json({"message": outcome.message}))


def _refused(origin: str | None, outcome: Refused, form: Form) -> Answer:
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
    """What every answer has: CORS echoes the origin, because a beacon sends credentials and `*` forbids those."""
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
    """Whether a header's value can be sent back: bytes that are no UTF-8 arrive as surrogates, and cannot."""
    return text.isascii() and text.isprintable()


def _error(
    status: int,
    message: str,
    errors: list[dict[str, str]] | str,
    headers: CIMultiDict[str],
    *,
    close: bool = False,
) -> Answer:
    if isinstance(errors, str):
        errors = [{"message": message, "code": errors}]
    return Answer(status, headers, _json({"message": message, "errors": errors}), close)


def _json(value: dict[str, Any]) -> bytes:
    return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode()


_ORIGIN_OF_A_TEMPLATE = "https://origin.example"
_STORED = {
    close: stored(_ORIGIN_OF_A_TEMPLATE).begin(close=close).split(_ORIGIN_OF_A_TEMPLATE.encode())
    for close in (False, True)
}


def stored_begin(origin: str | None, *, close: bool) -> bytes:
    """`stored(origin).begin(close=close)` for an origin of printable ASCII, not rendered anew for each of thousands."""
    before, after = _STORED[close]
    return before + (origin or "*").encode() + after
