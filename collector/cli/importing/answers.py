"""What the answer to a batch means: it was judged, it may be sent again or in parts, or the import cannot go on."""

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import msgspec


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Judged:
    """Every event was stored, except those at these indexes from 0. Each has its reasons, "reason: message"."""

    not_stored: Mapping[int, list[str]]


@dataclass(frozen=True, slots=True)
class Again:
    """Not now: send it again, after this many seconds if the answer names them."""

    why: str
    after_s: float | None = None


@dataclass(frozen=True, slots=True)
class TooMuch:
    """Send it in parts. `why` is "reason: message"."""

    why: str
    is_count: bool
    """Whether this number of events is always too many."""


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Sending it again would not help."""

    why: str


Verdict = Judged | Again | TooMuch | Hopeless

# What a line gets for an event of which the answer has only the index.
UNEXPLAINED = "not stored"


class _NotStored(msgspec.Struct):
    index: int
    reason: str
    message: str


class _Judged(msgspec.Struct):
    stored: int
    dropped: int = 0
    errors: list[_NotStored] = []
    dropped_indexes: list[int] = []


class _Error(msgspec.Struct):
    message: str


class _Refused(msgspec.Struct):
    message: str
    errors: list[_Error] = []


def verdict(answer: Answer, events: int, now_s: float) -> Verdict:
    """What this answer to a batch of this many events means. `now_s` is the time in seconds since the epoch."""
    status = answer.status
    if status in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.UNPROCESSABLE_ENTITY):
        return _judged(answer, events)
    why = message_of(answer)
    after_s = _retry_after_s(answer.headers.get("retry-after"), now_s)
    if status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT:
        return Again(why, after_s)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        is_split = after_s is None and "split" in why.lower()
        return TooMuch(f"rate_limited: {why}", is_count=True) if is_split else Again(why, after_s)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return TooMuch(f"too_large: {why}", is_count=False)
    return Hopeless(_explained(answer, why))


def _judged(answer: Answer, events: int) -> Judged | Hopeless:
    try:
        judged = msgspec.json.decode(answer.body, type=_Judged)
    except msgspec.MsgspecError:
        return Hopeless(f"the answer is not a collector's: {message_of(answer)}")
    not_stored: dict[int, list[str]] = {}
    for error in judged.errors:
        not_stored.setdefault(error.index, []).append(f"{error.reason}: {error.message}")
    for index in judged.dropped_indexes:
        not_stored.setdefault(index, [UNEXPLAINED])
    is_complete = judged.dropped == len(not_stored) and judged.stored + judged.dropped == events
    if not is_complete or not all(0 <= index < events for index in not_stored):
        return Hopeless(
            f"the answer does not fit {events} events: {judged.stored} stored, {judged.dropped} not stored, "
            f"{len(not_stored)} explained: {message_of(answer)}"
        )
    return Judged(not_stored)


def _explained(answer: Answer, why: str) -> str:
    if 300 <= answer.status < 400:
        location = answer.headers.get("location", "")[:200]
        return f"{why}: redirects are not followed; --url should be the address that it redirects to: {location}"
    if answer.status < 300:
        return f"the answer is not a collector's: {why}"
    return why


def message_of(answer: Answer) -> str:
    """The status, and what the collector says; only the status if it was not the collector that answered."""
    try:
        refused = msgspec.json.decode(answer.body, type=_Refused)
        texts = dict.fromkeys((refused.message, *(error.message for error in refused.errors)))
    except msgspec.MsgspecError:
        texts = {}
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = ""
    return ": ".join(text for text in (f"{answer.status} {phrase}".strip(), *texts) if text)[:500]


def _retry_after_s(value: str | None, now_s: float) -> float | None:
    """Seconds from now (RFC 9110, 10.2.3); None if there is no readable value."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
