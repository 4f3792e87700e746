"""A strict parser of responses: anything unexpected is a bug in the collector."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from collector.edge.negotiation import IDENTITY
from collector.edge.responses import JSON, PIXEL
from collector.edge.script import current
from collector.events import Reason

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS: dict[int, set[Reason | None]] = {
    200: {None, *Reason},  # pixels always get it
    201: {None},
    202: {
        Reason.INVALID,
        Reason.TRACKING_DISABLED,
        Reason.OPTED_OUT,
        Reason.LOCALHOST,
        Reason.EXCLUDED_IP,
        Reason.BOT,
        Reason.EXCLUDED_PATH,
    },
    204: {None},
    304: {None},
    400: {Reason.INVALID, None},
    401: {Reason.UNAUTHORIZED},
    403: {Reason.ORIGIN_NOT_ALLOWED},
    404: {Reason.UNKNOWN_SITE, Reason.NOT_FOUND},
    405: {Reason.METHOD},
    408: {Reason.TIMEOUT},
    413: {Reason.TOO_LARGE},
    415: {Reason.ENCODING},
    422: {Reason.INVALID},
    431: {Reason.TOO_LARGE},
    503: {Reason.UNAVAILABLE},
}
"""The statuses that fuzzing can get, and the reasons that each may have."""

REASONS_OF_EVENTS = REASONS[202] | {Reason.TOO_LARGE}
"""The reasons for which an event of a batch may not be stored."""

# aiohttp responds in the HTTP version of the request.
_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2}) ([A-Z][A-Za-z -]+)")
_HEADER = re.compile(r"([A-Z][A-Za-z-]+): ([!-~](?:[ -~]*[!-~])?)")
_ECHOED = ("Access-Control-Allow-Origin", "Access-Control-Allow-Headers")
_ALWAYS = {"Server", "Content-Type", "Date"}
_KNOWN = _ALWAYS | {
    *_ECHOED,
    "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Methods",
    "Access-Control-Expose-Headers",
    "Access-Control-Max-Age",
    "Accept-Encoding",
    "Allow",
    "Cache-Control",
    "Collect-Reason",
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "Cross-Origin-Resource-Policy",
    "Etag",
    "Retry-After",
    "Vary",
    "WWW-Authenticate",
    "X-Content-Type-Options",
}
_WITHOUT_BODY = (204, 304)


class Malformed(AssertionError):
    """The bytes received are not a response that the collector may send."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One final response. `shown`: the part of it that must not contain request data. `stored`: the events it says."""

    status: int
    shown: bytes
    closes: bool
    stored: int


def read(data: bytes, *, cut: bool = False, heads: bool = False, interim: bool = False) -> list[Answer]:
    """Parse the responses of a connection. Raises Malformed.

    `cut`: the last one may be incomplete, because the connection was reset. `heads`: there may be responses to HEAD,
    which have no body. `interim`: 100 Continue is allowed, because a request may have had an Expect header.
    """
    answers: list[Answer] = []
    while data:
        if answers and answers[-1].closes:
            raise Malformed(f"bytes follow a response with Connection: close: {data[:200]!r}")
        if interim and data.startswith(CONTINUE):
            data = data[len(CONTINUE) :]
            continue
        if cut and not _is_whole(data):
            break
        answer, data = _read_one(data, heads)
        answers.append(answer)
    return answers


def _is_whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def _read_one(data: bytes, heads: bool) -> tuple[Answer, bytes]:
    head, end, rest = data.partition(b"\r\n\r\n")
    _demand(bool(end), "incomplete head", data)
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _STATUS_LINE.fullmatch(first)
    if match is None or int(match[1]) not in REASONS:
        raise Malformed(f"unexpected status line: {data[:200]!r}")
    status = int(match[1])
    _demand(HTTPStatus(status).phrase == match[2], "wrong reason phrase", data)
    headers: dict[str, str] = {}
    for line in lines:
        field = _HEADER.fullmatch(line)
        if field is None or field[1] not in _KNOWN or field[1] in headers:
            raise Malformed(f"unexpected header {line[:200]!r} in {data[:200]!r}")
        headers[field[1]] = field[2]
    _demand(
        headers.keys() >= _ALWAYS - ({"Content-Type"} if status in _WITHOUT_BODY else set()), "missing header", data
    )
    _demand((status == 401) == ("WWW-Authenticate" in headers), "WWW-Authenticate belongs to 401, and only to it", data)
    _demand((status == 503) == ("Retry-After" in headers), "Retry-After belongs to 503, and only to it", data)
    length = int(headers.get("Content-Length", "0" if status in _WITHOUT_BODY else "-1"))
    body, rest = (b"", rest) if heads and (not rest or rest.startswith(b"HTTP/")) else (rest[:length], rest[length:])
    stored = 0
    if not (heads and not body):
        _demand(len(body) == length, "wrong Content-Length", data)
        stored = _check_body(status, headers, body)
    elif status not in (202, 422):
        _check_reason(status, headers, REASONS[status], body)
    shown = b"".join(f"{name}: {value}\n".encode() for name, value in headers.items() if name not in _ECHOED) + body
    return Answer(status, shown, headers.get("Connection") == "close", stored), rest


def _check_body(status: int, headers: dict[str, str], body: bytes) -> int:
    """Check the body and the reason. Returns how many events are stored."""
    is_json = status not in (200, *_WITHOUT_BODY) and not (status == 400 and "Collect-Reason" not in headers)
    said: dict[str, Any] = json.loads(body) if is_json else {}
    if "stored" in said:
        _check_batch(status, headers, said, body)
        return int(said["stored"])
    _check_reason(status, headers, REASONS[status], body)
    if status in _WITHOUT_BODY:
        return 0
    if headers["Content-Type"] == "image/gif":
        _demand((status, body) == (200, PIXEL), "wrong image", body)
        return int("Collect-Reason" not in headers)
    if status == 200:  # the script
        _demand("Collect-Reason" not in headers, "a reason with a script", body)
        _demand(headers["Content-Type"] == "text/javascript; charset=utf-8", "wrong Content-Type", body)
        _demand(body == current().content[headers.get("Content-Encoding", IDENTITY)], "wrong script", body)
        return 0
    if not said:
        _demand(body == b"Bad request\n", "wrong text", body)
        return 0
    _check_message(headers, said, body)
    _demand(said.keys() == ({"message"} if status < 400 else {"message", "errors"}), "wrong JSON members", body)
    return int(status == 201)


def _check_batch(status: int, headers: dict[str, str], said: dict[str, Any], body: bytes) -> None:
    """Check the answer to a batch that was read."""
    _check_message(headers, said, body)
    _check_reason(status, headers, {None} if status == 201 else REASONS_OF_EVENTS, body)
    if status == 201:
        _demand(said.keys() == {"message", "stored"} and said["stored"] > 0, "wrong answer to a batch", body)
        return
    _demand(status in (202, 422), "wrong status for a batch", body)
    dropped, errors = said["dropped"], said["errors"]
    indexes = said.get("dropped_indexes", [each["index"] for each in errors])
    is_unread = (said["stored"], dropped, errors) == (0, 1, [])
    _demand(said.keys() - {"dropped_indexes"} == {"message", "stored", "dropped", "errors"}, "wrong members", body)
    _demand(("dropped_indexes" in said) == (dropped > 100), "dropped_indexes belongs to over 100", body)
    _demand(is_unread or dropped == len(indexes) > 0, "wrong number of dropped events", body)
    _demand(indexes == sorted(set(indexes)) and len(errors) == (0 if is_unread else min(dropped, 100)), "errors", body)
    for index, each in zip(indexes, errors, strict=False):
        _demand(each.keys() == {"index", "reason", "message"} and each["index"] == index, "wrong error", body)
        _demand(Reason(each["reason"]) in REASONS_OF_EVENTS and 0 < len(each["message"]) <= 200, "wrong error", body)


def _check_message(headers: dict[str, str], said: dict[str, Any], body: bytes) -> None:
    _demand(headers["Content-Type"] == JSON, "wrong Content-Type", body)
    _demand(headers.get("Access-Control-Allow-Credentials") == "true", "missing CORS headers", body)
    _demand(0 < len(said["message"]) <= 200, "message empty or too long", body)


def _check_reason(status: int, headers: dict[str, str], allowed: Collection[Reason | None], body: bytes) -> None:
    _demand(headers.get("Collect-Reason") in allowed, f"wrong Collect-Reason for {status}", body)


def _demand(holds: bool, what: str, data: bytes) -> None:
    if not holds:
        raise Malformed(f"{what}: {data[:300]!r}")
