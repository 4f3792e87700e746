"""Answers: every outcome as an HTTP response, with CORS on all of them.

201 and 202   {"message": ...}
4xx and 5xx   {"message": ..., "errors": [{"message", "code", "field"?}]}
"""

from dataclasses import dataclass
from typing import Any

import ujson
from aiohttp import hdrs, web
from multidict import CIMultiDict

from collector.events import Ignored, Reason, Refused

COLLECT_REASON = "Collect-Reason"
JSON = "application/json; charset=utf-8"
METHODS = "POST, OPTIONS"
PREFLIGHT_MAX_AGE_S = 86_400

STORED = b'{"message":"Event received"}'


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
    Reason.ORIGIN_NOT_ALLOWED: Form(403, "FORBIDDEN"),
    Reason.METHOD: Form(405, "METHOD_NOT_ALLOWED", headers=((hdrs.ALLOW, METHODS),)),
    Reason.TIMEOUT: Form(408, "TIMEOUT", close=True),
    Reason.TOO_LARGE: Form(413, "PAYLOAD_TOO_LARGE", close=True),
    Reason.ENCODING: Form(415, "UNSUPPORTED_ENCODING", headers=((hdrs.ACCEPT_ENCODING, "identity"),)),
    Reason.RATE_LIMITED: Form(429, "RATE_LIMITED"),
    Reason.INTERNAL: Form(500, "INTERNAL_ERROR"),
    Reason.UNAVAILABLE: Form(503, "SERVICE_UNAVAILABLE"),
}


def stored(request: web.BaseRequest) -> web.Response:
    return web.Response(status=201, body=STORED, headers=_headers(request))


def ignored(request: web.BaseRequest, outcome: Ignored) -> web.Response:
    headers = _headers(request)
    headers[COLLECT_REASON] = outcome.reason.value
    return web.Response(status=202, body=_json({"message": outcome.message}), headers=headers)


def refused(request: web.BaseRequest, outcome: Refused) -> web.Response:
    form = FORMS[outcome.reason]
    headers = _headers(request)
    headers[COLLECT_REASON] = outcome.reason.value
    headers.extend(form.headers)
    if outcome.retry_after_s is not None:
        headers[hdrs.RETRY_AFTER] = str(outcome.retry_after_s)
    errors: list[dict[str, str]] = [
        {"message": str(error), "code": form.code} | ({"field": error.field} if error.field else {})
        for error in outcome.errors
    ]
    return _error(form.status, outcome.message, errors or form.code, headers, close=form.close)


def not_found(request: web.BaseRequest) -> web.Response:
    return _error(404, "Not found", "NOT_FOUND", _headers(request))


def bad_body(request: web.BaseRequest) -> web.Response:
    """The head was HTTP, the body's framing is not."""
    return _error(400, "Bad request", "BAD_REQUEST", _headers(request), close=True)


def not_http() -> web.Response:
    """What came is not HTTP: a fixed text, and no header that depends on it."""
    response = web.Response(status=400, text="Bad request\n")
    response.force_close()
    return response


def preflight(request: web.BaseRequest) -> web.Response:
    """What a browser asks before it sends anything but a plain form; it may remember the answer for a day."""
    headers = _headers(request)
    headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = METHODS
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked if asked and _echoes(asked) else hdrs.CONTENT_TYPE
    headers[hdrs.ACCESS_CONTROL_MAX_AGE] = str(PREFLIGHT_MAX_AGE_S)
    headers[hdrs.VARY] = f"{hdrs.ORIGIN}, {hdrs.ACCESS_CONTROL_REQUEST_HEADERS}"
    return web.Response(status=204, headers=headers)


def _headers(request: web.BaseRequest) -> CIMultiDict[str]:
    """Content-Type and CORS. The origin is echoed, because a beacon sends credentials and `*` forbids those."""
    origin = request.headers.get(hdrs.ORIGIN)
    return CIMultiDict(
        {
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
) -> web.Response:
    if isinstance(errors, str):
        errors = [{"message": message, "code": errors}]
    response = web.Response(status=status, body=_json({"message": message, "errors": errors}), headers=headers)
    if close:
        response.force_close()
    return response


def _json(value: dict[str, Any]) -> bytes:
    return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False).encode()
