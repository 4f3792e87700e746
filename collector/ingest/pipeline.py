"""The pipeline: what came in, to an accepted event or to the reason why it is none.

It knows nothing of HTTP. The first step that speaks decides, and those that need no body come first, so
that an answer which does not depend on the body need not wait for it.
"""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from collector.addresses import Address, parse_address
from collector.events import FIELDS, Dropped, Event, Ignored, Kind, Reason, Refused, Row
from collector.ingest.enrich import ClientIpPolicy, event_time_us
from collector.ingest.reader import read
from collector.ingest.schema import InvalidEvent, check, check_all, is_finite, number, parse
from collector.journal.record import Record
from collector.sites import Site, host_of, origin_of

# Longer ones are cut: browsers send about 120 characters, and a head may have 32 KB.
USER_AGENT_MAX_CHARACTERS = 512

LONGEST_HOST = 253  # RFC 1035, 2.3.4, without the dot at its end

# What a row takes beside the text of its body and user agent: 66 Arrow slots and their validity bits, 364 bytes, and
# at most 64 of site id and 45 of address. (While it waits to become columns it takes 1.3 KB more, but at most 256 rows
# do; bench/memory.py measures both.)
ROW_BYTES = 480

_FIELD_NAMES = tuple(field.name for field in FIELDS)
_NUMBERS = tuple((index, field.name) for index, field in enumerate(FIELDS) if field.kind is Kind.NUMBER)
_NUMBER = (int, float)
_TYPES = {Kind.STRING: (str,), Kind.TIMESTAMP: (str,), Kind.BOOLEAN: (bool,), Kind.NUMBER: _NUMBER}
_TYPES_OF: dict[str, tuple[type, ...]] = {field.name: _TYPES[field.kind] for field in FIELDS}
_ANY_IPV4 = IPv4Address(0)
_EVENT_TIME = _FIELD_NAMES.index("event_time")


class Arrival(NamedTuple):
    """What is known of an event before its body; `user_agent` is cut and clean, see `arrive`."""

    client: Address
    origin: str | None
    referer: str | None
    user_agent: str | None
    charge_bytes: int  # what a row takes beside the text of its body


def arrive(client: Address, origin: str | None, referer: str | None, user_agent: str | None) -> Arrival:
    """What came with the head of a request."""
    if user_agent is None or user_agent.isascii():
        clean = user_agent and user_agent[:USER_AGENT_MAX_CHARACTERS]
        return Arrival(client, origin, referer, clean, ROW_BYTES + len(clean or ""))
    clean = _clean(user_agent)
    return Arrival(client, origin, referer, clean, ROW_BYTES + len(clean.encode()))


def tracking_enabled(site: Site, arrival: Arrival) -> Ignored | None:
    return None if site.tracking else Ignored(Reason.TRACKING_DISABLED, "Tracking is disabled for this site")


def not_localhost(site: Site, arrival: Arrival) -> Ignored | None:
    """The page's host is that of `Origin`, else of `Referer`; without either it is no localhost.

    An origin that the site lists by name is let in: apps have `capacitor://localhost` and the like.
    """
    host = None if site.allow_localhost else host_of(arrival.origin) or host_of(arrival.referer)
    if host is None or len(host) > LONGEST_HOST or not _is_localhost(host):
        return None
    if site.allowed_origins is not None:
        origin = arrival.origin if host_of(arrival.origin) else origin_of(arrival.referer)
        if origin is not None and site.allowed_origins.names(origin):
            return None
    return Ignored(Reason.LOCALHOST, "Events from localhost are not tracked")


def origin_allowed(site: Site, arrival: Arrival) -> Refused | None:
    if site.allowed_origins is None or arrival.origin is None or arrival.origin in site.allowed_origins:
        return None
    return Refused(Reason.ORIGIN_NOT_ALLOWED, "Origin not allowed")


def ip_not_excluded(site: Site, arrival: Arrival) -> Ignored | None:
    return Ignored(Reason.EXCLUDED_IP, "IP address is excluded") if arrival.client in site.excluded_ips else None


Steps = tuple[Callable[[Site, Arrival], Dropped | None], ...]

OF_THE_PAGE: Steps = (tracking_enabled, not_localhost, origin_allowed)
"""What depends on the site and the headers `Origin` and `Referer` alone."""

BEFORE_BODY: Steps = (*OF_THE_PAGE, ip_not_excluded)


def admit(site: Site, arrival: Arrival, steps: Steps = BEFORE_BODY) -> Dropped | None:
    """The reason not to read the body, or None."""
    for step in steps:
        verdict = step(site, arrival)
        if verdict is not None:
            return verdict
    return None


def accept(
    site: Site, arrival: Arrival, body: bytes, received_us: int, client_ip: ClientIpPolicy
) -> Event | Ignored | Refused:
    """The event in `body`, ready to be stored, or why it is not to be."""
    try:
        event = parse(body)
        values = read(event, received_us)
        if values is None:  # it may be valid all the same, and if not, its sender is told why
            if site.strict:
                check_all(event)
            else:
                check(event, body)
            values = to_values(event, received_us)
    except InvalidEvent as exc:
        return invalid(site, exc)
    if event["page_path"] in site.excluded_paths:
        return Ignored(Reason.EXCLUDED_PATH, "Page path is excluded")
    kept_ip, user_agent = client_ip(arrival.client, received_us), arrival.user_agent
    row: Row = [site.id, received_us, *values, kept_ip, user_agent]
    return Event(site.id, received_us, kept_ip, user_agent, body, row, arrival.charge_bytes + len(body))


def replay(record: Record) -> tuple[Event, bool]:
    """The event of a record, and whether all of it still fits its columns.

    It was accepted, so it is not judged again, whatever rules and contract have become since: a value that does not fit
    the column of today is null, and what is no event at all any more has nothing but nulls.
    """
    try:
        event = parse(record.body)
        fits = True
    except InvalidEvent:
        event, fits = {}, False
    misfits = [name for name in event.keys() & _TYPES_OF.keys() if not _fits(name, event[name])]
    for name in misfits:
        event[name] = None
        fits = False
    _, _, site_id, received_us, client_ip, user_agent, body = record
    row: Row = [site_id, received_us, *to_values(event, received_us), client_ip, user_agent]
    size_bytes = ROW_BYTES + len((user_agent or "").encode()) + len(body)
    return Event(site_id, received_us, client_ip, user_agent, body, row, size_bytes), fits


def _fits(name: str, value: Any) -> bool:
    types = _TYPES_OF[name]
    return value is None or (type(value) in types and (types is not _NUMBER or is_finite(value)))


def to_values(event: dict[str, Any], received_us: int) -> Row:
    """The event's values: one per field of the contract, then `event_time_raw`.

    Raises InvalidEvent for a number that no float64 holds. This is where a value that Arrow cannot hold must
    stop: behind it nothing is checked any more. Unknown fields are left behind.
    """
    values: Row = [*map(event.get, _FIELD_NAMES), None]
    for index, name in _NUMBERS:
        value = event.get(name)
        if value is not None:
            values[index] = number(name, value)
    words = event.get("event_time")
    if words is not None:  # which the contract of today requires, but no record's does for ever
        values[_EVENT_TIME] = event_time_us(words, received_us)
        if values[_EVENT_TIME] is None:
            values[-1] = words
    return values


def invalid(site: Site, exc: InvalidEvent) -> Ignored | Refused:
    """202, because a beacon's page cannot act on it; 422 where the site asks to be told."""
    if site.strict:
        return Refused(Reason.INVALID, str(exc), errors=exc.errors)
    return Ignored(Reason.INVALID, str(exc))


# A page's host comes again and again; 4,096 of at most 253 characters are 1 MB.
@lru_cache(maxsize=4_096)
def _is_localhost(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = parse_address(host)
    return address is not None and (address.is_loopback or address == _ANY_IPV4)


def _clean(user_agent: str) -> str:
    """Cut, and free of the surrogates that stand for bytes which are no UTF-8."""
    return user_agent.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:USER_AGENT_MAX_CHARACTERS]
