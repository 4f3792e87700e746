"""The pipeline: turns a request's fields into an accepted event, or into the reason it was ignored or refused.

The pipeline knows nothing about HTTP. Each step that needs no body is a function here. The list in
collector/edge/decide.py sets their order, along with the steps of HTTP.
"""

from typing import Any, Final

from collector.addresses import Address
from collector.events import FIELDS, Event, Ignored, Kind, Reason, Refused, Row
from collector.ingest.enrich import ClientIpPolicy
from collector.ingest.reader import FIRST_FIELD, read, row_of
from collector.ingest.schema import InvalidEvent, check, check_all, is_finite, number, parse
from collector.ingest.user_agent import known_user_agent
from collector.journal.record import Record
from collector.sites import Site, known_host, origin_of

# Memory of a row, besides its body, user agent and bot: 369 bytes for 67 Arrow slots with their validity bits, at most
# 64 for the site id, and at most 45 for the address. A row not yet turned into columns takes 1.3 KB more, but at most
# 512 rows are in that state (bench/memory.py measures both).
ROW_BYTES: Final = 480

_FIELD_NAMES: Final = tuple(field.name for field in FIELDS)
_NUMBERS: Final = tuple(
    (index, field.name) for index, field in enumerate(FIELDS, FIRST_FIELD) if field.kind is Kind.NUMBER
)
_KINDS: Final = {field.name: field.kind for field in FIELDS}
_PAGE_PATH: Final = FIRST_FIELD + _FIELD_NAMES.index("page_path")
_CLIENT_IP: Final = -3
_USER_AGENT: Final = -2
_BOT: Final = -1


class Arrival:
    """What is known about an event before its body is read: the site, the client and three request headers.

    `is_sender`: the sender has one of the site's keys, so it is no page, and its events may be a visitor's.
    """

    __slots__ = ("client", "is_sender", "origin", "referer", "site", "user_agent")

    def __init__(
        self,
        site: Site,
        client: Address | None,
        origin: str | None = None,
        referer: str | None = None,
        user_agent: str | None = None,
    ) -> None:
        self.site = site
        self.client = client
        self.origin = origin
        self.referer = referer
        self.user_agent = user_agent
        self.is_sender = False


def tracking_enabled(arrival: Arrival) -> Ignored | None:
    return None if arrival.site.tracking else Ignored(Reason.TRACKING_DISABLED, "Tracking is disabled for this site")


def not_localhost(arrival: Arrival) -> Ignored | None:
    """Ignore events from pages on localhost.

    `Origin` names the page's host, or else `Referer` does. With neither, the page is not on localhost.

    An origin that the site lists by name is let in, because apps use origins such as `capacitor://localhost`.
    """
    site = arrival.site
    if site.allow_localhost or arrival.is_sender:
        return None
    by_origin = known_host(arrival.origin or "")
    if not (by_origin if by_origin.name else known_host(arrival.referer or "")).is_local:
        return None
    if site.allowed_origins is not None:
        origin = arrival.origin if by_origin.name else origin_of(arrival.referer)
        if origin is not None and site.allowed_origins.names(origin):
            return None
    return Ignored(Reason.LOCALHOST, "Events from localhost are not tracked")


def origin_allowed(arrival: Arrival) -> Refused | None:
    allowed, origin = arrival.site.allowed_origins, arrival.origin
    if allowed is None or origin is None or arrival.is_sender or origin in allowed:
        return None
    return Refused(Reason.ORIGIN_NOT_ALLOWED, "Origin not allowed")


def ip_not_excluded(arrival: Arrival) -> Ignored | None:
    if arrival.is_sender:  # its own address is no visitor's; `accept_from_sender` checks those that its events give
        return None
    is_excluded = arrival.client is not None and arrival.client in arrival.site.excluded_ips
    return Ignored(Reason.EXCLUDED_IP, "IP address is excluded") if is_excluded else None


def not_bot(arrival: Arrival) -> Ignored | None:
    if arrival.is_sender or not arrival.site.drops_bots:  # `accept_from_sender` checks the user agents of its events
        return None
    is_bot = known_user_agent(arrival.user_agent).bot is not None
    return Ignored(Reason.BOT, "Bots are not tracked") if is_bot else None


def accept(arrival: Arrival, body: bytes, received_us: int, client_ip: ClientIpPolicy) -> Event | Ignored | Refused:
    """Return the event in `body`, ready to be stored, or the reason it is ignored or refused."""
    site = arrival.site
    row = read(body, received_us)
    if row is None:  # the event may still be valid; if not, the validator raises the reason
        try:
            row = _validated(body, received_us, site)
        except InvalidEvent as exc:
            return invalid(site, exc)
    page_path = row[_PAGE_PATH]
    assert isinstance(page_path, str)  # the contract requires it
    if page_path in site.excluded_paths:
        return Ignored(Reason.EXCLUDED_PATH, "Page path is excluded")
    kept_ip = None if arrival.client is None else client_ip(arrival.client, received_us)
    agent = known_user_agent(arrival.user_agent)
    row[0], row[_CLIENT_IP], row[_USER_AGENT] = site.id, kept_ip, agent.text
    if site.flags_bots:
        row[_BOT] = agent.bot
    size_bytes = ROW_BYTES + agent.size_bytes + len(body)
    return Event(site.id, received_us, kept_ip, agent.text, body, row, size_bytes)


def _validated(body: bytes, received_us: int, site: Site) -> Row:
    """Return the event's row, as `read` does. Raises InvalidEvent."""
    event = parse(body)
    if site.strict:
        check_all(event, body)
    else:
        check(event, body)
    return to_row(event, received_us)


def replay(record: Record, flags_bots: bool = True) -> tuple[Event, bool]:
    """Rebuild the event of a record. Also returns whether every value still fits its column.

    The event was accepted once, so it is not validated again, even if the rules or the contract have changed. A value
    that no longer fits its column becomes null. A body that can no longer be parsed gives a row of nulls. The journal
    has no names of bots: they are looked up again, if the site's events have them.
    """
    _, _, site_id, received_us, client_ip, user_agent, body = record
    row, fits = read(body, received_us), True
    if row is None:
        row, fits = _fitting(body, received_us)
    agent = known_user_agent(user_agent)
    row[0], row[_CLIENT_IP], row[_USER_AGENT] = site_id, client_ip, user_agent
    if flags_bots:
        row[_BOT] = agent.bot
    size_bytes = ROW_BYTES + agent.size_bytes + len(body)
    return Event(site_id, received_us, client_ip, user_agent, body, row, size_bytes), fits


def _fitting(body: bytes, received_us: int) -> tuple[Row, bool]:
    """Return a row of the values that fit their columns, None for the others, and whether there are no others."""
    try:
        event = parse(body)
    except InvalidEvent:
        return to_row({}, received_us), False
    misfits = [name for name in event.keys() & _KINDS.keys() if not _fits(_KINDS[name], event[name])]
    for name in misfits:
        event[name] = None
    return to_row(event, received_us), not misfits


def _fits(kind: Kind, value: Any) -> bool:
    match kind:
        case Kind.NUMBER:
            return value is None or (type(value) in (int, float) and is_finite(value))
        case Kind.BOOLEAN:
            return value is None or type(value) is bool
        case _:
            return value is None or (type(value) is str and _is_text(value))


def _is_text(value: str) -> bool:
    """Whether Arrow can hold it. A single lone surrogate would keep its segment from ever being published."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_row(event: dict[str, Any], received_us: int) -> Row:
    """Return the event's row, without the site, the client's address, the user agent and the bot.

    Drops unknown fields.

    Raises InvalidEvent for a number beyond the range of a float64. This is the last check: later code hands the values
    to Arrow as they are.
    """
    row = row_of(map(event.get, _FIELD_NAMES), received_us)
    for index, name in _NUMBERS:
        value = event.get(name)
        if value is not None:
            row[index] = number(name, value)
    return row


def invalid(site: Site, exc: InvalidEvent) -> Ignored | Refused:
    """Ignore an invalid event (202), since its page cannot react to an error; on a strict site, refuse it (422)."""
    if site.strict:
        return Refused(Reason.INVALID, str(exc), errors=exc.errors)
    return Ignored(Reason.INVALID, str(exc))
