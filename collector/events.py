"""Events: their contract, their columns, and their dispositions.

`schemas/collect.schema.json` is the single source of truth, and this module reads it. The columns, the Arrow schema,
the OpenAPI page and the validator are derived from it.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import Enum, StrEnum
from importlib.resources import files
from typing import Any

_CONTRACT_TEXT = (files("collector") / "schemas" / "collect.schema.json").read_bytes()

CONTRACT: dict[str, Any] = json.loads(_CONTRACT_TEXT)
"""The JSON Schema (draft-07) of one event."""

CONTRACT_HASH = hashlib.sha256(_CONTRACT_TEXT).hexdigest()[:16]
"""Identifies a version of the contract, in the footer of every part and in `collector --version`."""


class Kind(Enum):
    """The type of a column's values. All columns but `site_id` and `received_at` can hold nulls."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"  # microseconds since the epoch, UTC


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the dataset."""

    name: str
    kind: Kind


def _kind(rule: dict[str, Any]) -> Kind:
    """The kind of a field: the contract's `x-column` if there is one, else the JSON type."""
    if "x-column" in rule:
        return Kind(rule["x-column"])
    types = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    (json_type,) = (name for name in types if name != "null")
    return Kind(json_type)


FIELDS: tuple[Column, ...] = tuple(Column(name, _kind(rule)) for name, rule in CONTRACT["properties"].items())
"""The 61 fields of the contract, in its order."""

COLUMNS: tuple[Column, ...] = (
    Column("site_id", Kind.STRING),
    Column("received_at", Kind.TIMESTAMP),
    *FIELDS,
    Column("event_time_raw", Kind.STRING),
    Column("client_ip", Kind.STRING),
    Column("user_agent", Kind.STRING),
    Column("bot", Kind.STRING),
)
"""The columns of every part, in order. A new one comes last, so that readers find the others where they were."""

Row = list[str | float | int | bool | None]
"""One value per column, of the column's kind or None. Arrow takes them without a check."""


class Event:
    """An accepted event, ready to be stored.

    A plain class: compiled code creates it 0.2 us faster than a NamedTuple or a dataclass.

    The journal stores the fields before `row`; parts get `row`, which is made from them. `size_bytes` is the size that
    the journal's limits count for the event, never less than its columns take.
    """

    def __init__(
        self,
        site_id: str,
        received_us: int,
        client_ip: str | None,
        user_agent: str | None,
        body: bytes,
        row: Row,
        size_bytes: int,
    ) -> None:
        self.site_id = site_id
        self.received_us = received_us
        self.client_ip = client_ip
        self.user_agent = user_agent
        self.body = body
        self.row = row
        self.size_bytes = size_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self._values() == other._values()

    def __repr__(self) -> str:
        return f"Event{self._values()}"

    def _values(self) -> tuple[object, ...]:
        return (
            self.site_id,
            self.received_us,
            self.client_ip,
            self.user_agent,
            self.body,
            self.row,
            self.size_bytes,
        )


class Reason(StrEnum):
    """Why an event was not stored. The label of the metric, and the `Collect-Reason` header."""

    INVALID = "invalid"
    TRACKING_DISABLED = "tracking_disabled"
    EXCLUDED_IP = "excluded_ip"
    EXCLUDED_PATH = "excluded_path"
    LOCALHOST = "localhost"
    UNKNOWN_SITE = "unknown_site"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    METHOD = "method"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    ENCODING = "encoding"
    ABORTED = "aborted"
    INTERNAL = "internal"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    NOT_FOUND = "not_found"
    UNAUTHORIZED = "unauthorized"
    OPTED_OUT = "opted_out"
    BOT = "bot"


@dataclass(frozen=True, slots=True)
class FieldError:
    """A rule of the contract that an event breaks. `field` is None if the rule concerns the entire body."""

    field: str | None
    rule: str

    def __str__(self) -> str:
        return f"Validation error: {self.field or 'body'} {self.rule}"


@dataclass(frozen=True, slots=True)
class Ignored:
    """Not stored; the client need not react: 202."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not stored; the response reports an error: 4xx or 5xx."""

    reason: Reason
    message: str
    errors: tuple[FieldError, ...] = ()
    retry_after_s: int | None = None
    limit: int | None = None  # requests per minute, if the reason is the rate limit


Dropped = Ignored | Refused
