"""Pixels: events in the URL of an image, for pages and mails without JavaScript.

A pixel's query holds fields of the contract. What it lacks comes from the request. The result is the body of an event,
which is judged, stored and counted like any other.
"""

import re
import secrets
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from collector.clock import US_PER_DAY
from collector.edge.request import Request
from collector.events import CONTRACT, FIELDS, Kind
from collector.ingest.daily_key import DailyKeys

VISITOR_BYTES = 16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KINDS = {field.name: field.kind for field in FIELDS}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")  # RFC 8259, 6
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_LONGEST_PATH: Final[int] = CONTRACT["properties"]["page_path"]["maxLength"]


class Pixels:
    """Makes events of pixels."""

    def __init__(self, keys: DailyKeys) -> None:
        self._keys = keys

    def event(self, request: Request, now_us: int) -> bytes:
        """The body of the event that the request stands for. Raises KeyMissing."""
        event = _given(request.pixel_query or "")
        event.setdefault("event_type", "pageview")
        event.setdefault("event_time", (_EPOCH + timedelta(microseconds=now_us)).isoformat())
        event.setdefault("page_path", _path_of(request.referer))
        if "visitor_id" not in event or "session_id" not in event:
            visitor = self._visitor(request, now_us)
            if "visitor_id" not in event:
                event["visitor_id"] = visitor
                event.setdefault("visitor_id_source", "fingerprint")
            event.setdefault("session_id", visitor)
        return msgspec.json.encode(event)

    def _visitor(self, request: Request, now_us: int) -> str:
        """The same for all requests of a client to a site on one UTC day. Random if the client has no address."""
        if request.client is None:
            return secrets.token_hex(VISITOR_BYTES)
        # `person` makes it another hash than the stored `client_ip`, which has the same key.
        visitor = blake2b(key=self._keys.of(now_us // US_PER_DAY), person=b"visitor", digest_size=VISITOR_BYTES)
        user_agent = (request.user_agent or "").encode("utf-8", "surrogateescape")
        visitor.update(b"\0".join((request.site.id.encode(), str(request.client).encode(), user_agent)))
        return visitor.hexdigest()


def _given(query: str) -> dict[str, Any]:
    """The fields in the query. The last one of several wins. Empty ones, which templates leave, are missing."""
    parameters = parse_qsl(query, errors="replace")  # a hostile query of 32 KB takes up to 8 ms
    return {name: _value(_KINDS[name], _clean(text)) for name, text in parameters if name in _KINDS}


def _value(kind: Kind, text: str) -> Any:
    """The value of a parameter. One that its column cannot hold stays text, which the validator refuses."""
    match kind:
        case Kind.NUMBER:
            return msgspec.Raw(text.encode()) if _NUMBER.fullmatch(text) else text
        case Kind.BOOLEAN:
            return _BOOLEANS.get(text.lower(), text)
        case _:
            return text


def _path_of(referer: str | None) -> str:
    """The path of the page, as its URL has it."""
    try:
        path = urlsplit(_clean(referer or "")).path
    except ValueError:
        path = ""
    return path[:_LONGEST_PATH] if path.startswith("/") else "/"


def _clean(text: str) -> str:
    """Replace the surrogates that stand for bytes that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
