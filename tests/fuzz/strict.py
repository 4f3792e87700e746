"""A strict parser of responses: anything unexpected is a bug in the collector."""

import json
import re
from dataclasses import dataclass
from http import HTTPStatus

from collector.edge.negotiation import IDENTITY
from collector.edge.responses import JSON
from collector.edge.script import current
from collector.events import Reason

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS: dict[int, set[Reason | None]] = {
    200: {None},
    201: {None},
    202: {Reason.INVALID, Reason.TRACKING_DISABLED, Reason.LOCALHOST, Reason.EXCLUDED_IP, Reason.EXCLUDED_PATH},
    204: {None},
    304: {None},
    400: {Reason.INVALID, None},
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
    "X-Content-Type-Options",
}
_WITHOUT_BODY = (204, 304)


class Malformed(AssertionError):
    """The bytes received are not a response that the collector may send."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One final response. `shown`: the part of it that must not contain request data."""

    status: int
    shown: bytes
    closes: bool


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
    _demand(headers.get("Collect-Reason") in REASONS[status], "wrong Collect-Reason for this status", data)
    _demand((status == 503) == ("Retry-After" in headers), "Retry-After belongs to 503, and only to it", data)
    length = int(headers.get("Content-Length", "0" if status in _WITHOUT_BODY else "-1"))
    body, rest = (b"", rest) if heads and (not rest or rest.startswith(b"HTTP/")) else (rest[:length], rest[length:])
    if not (heads and not body):
        _demand(len(body) == length, "wrong Content-Length", data)
        _check_body(status, headers, body)
    shown = b"".join(f"{name}: {value}\n".encode() for name, value in headers.items() if name not in _ECHOED) + body
    return Answer(status, shown, headers.get("Connection") == "close"), rest


def _check_body(status: int, headers: dict[str, str], body: bytes) -> None:
    if status in _WITHOUT_BODY:
        return
    if status == 200:  # the script
        _demand(headers["Content-Type"] == "text/javascript; charset=utf-8", "wrong Content-Type", body)
        _demand(body == current().content[headers.get("Content-Encoding", IDENTITY)], "wrong script", body)
        return
    if status == 400 and "Collect-Reason" not in headers:
        _demand(body == b"Bad request\n", "wrong text", body)
        return
    _demand(headers["Content-Type"] == JSON, "wrong Content-Type", body)
    _demand(headers.get("Access-Control-Allow-Credentials") == "true", "missing CORS headers", body)
    said = json.loads(body)
    _demand(said.keys() == ({"message"} if status < 400 else {"message", "errors"}), "wrong JSON members", body)
    _demand(0 < len(said["message"]) <= 200, "message empty or too long", body)


def _demand(holds: bool, what: str, data: bytes) -> None:
    if not holds:
        raise Malformed(f"{what}: {data[:300]!r}")
