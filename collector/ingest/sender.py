"""Events of senders with a key: they may be of the past, and on behalf of a visitor.

Such an event may have three more fields. They are no fields of the contract, and those of other senders are ignored.

    received_at   when the visitor's event was received; takes the place of the receipt in every rule
    client_ip     the visitor's address
    user_agent    the visitor's user agent

Without them the event was received now, and has no address and no user agent: those of the request are the sender's.
The journal and `rejected/` keep the body without address and user agent, to which the privacy settings apply.
"""

from contextlib import suppress
from typing import Final

import msgspec
import ujson

from collector.addresses import Address, parse_address
from collector.clock import US_PER_DAY
from collector.events import Event, FieldError, Ignored, Refused
from collector.ingest.enrich import ClientIpPolicy, event_time_us, imported_client_ip
from collector.ingest.pipeline import Arrival, accept, invalid, ip_not_excluded, not_bot
from collector.ingest.schema import InvalidEvent, check, parse
from collector.sites import Site

_RECEIVED_AT, _CLIENT_IP, _USER_AGENT = _NAMES = ("received_at", "client_ip", "user_agent")

_PERSONAL: Final = (_CLIENT_IP, _USER_AGENT)


class _Given(msgspec.Struct, gc=False):
    received_at: str | None = None
    client_ip: str | None = None
    user_agent: str | None = None


_decode: Final = msgspec.json.Decoder(_Given).decode
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode  # 1.4 us; ujson would take 3.7
_encode: Final = msgspec.json.encode


class _GivenIpPolicy:
    """What may be stored of the address that an event gives."""

    def __init__(self, policy: ClientIpPolicy, now_us: int) -> None:
        self._policy = policy
        self._now_us = now_us

    def __call__(self, address: Address, received_us: int) -> str | None:
        return imported_client_ip(self._policy, address, received_us, self._now_us)


def accept_from_sender(
    site: Site, body: bytes, now_us: int, retention_days: int, client_ip: ClientIpPolicy
) -> Event | Ignored | Refused:
    """Do the same as `accept`, and check the client's address and user agent, for an event of a sender with a key.

    `retention_days`: the days before today that are kept, 0: all. Raises KeyMissing.
    """
    try:
        given = _read(body)
        received_us = _received_us(given.received_at, now_us, retention_days)
        client = _client(given.client_ip)
        if _may_be_personal(body):
            body = _without_personal(body)
    except InvalidEvent as exc:
        return invalid(site, exc)
    arrival = Arrival(site, client, user_agent=given.user_agent)
    return (
        ip_not_excluded(arrival)
        or not_bot(arrival)
        or accept(arrival, body, received_us, _GivenIpPolicy(client_ip, now_us))
    )


def presentable(body: bytes) -> bytes | None:
    """A rejected body without address and user agent. None if they cannot be found and taken out."""
    if not _may_be_personal(body):
        return body
    with suppress(InvalidEvent):
        return _without_personal(body)
    return None


def _may_be_personal(body: bytes) -> bool:
    """Whether the body may have one of the fields. JSON can write their names with escapes, or in UTF-16 or UTF-32."""
    return (
        body.find(b"client_ip") >= 0 or body.find(b"user_agent") >= 0 or body.find(b"\\u") >= 0 or body.find(b"\0") >= 0
    )


def _without_personal(body: bytes) -> bytes:
    """The same event without the fields. Every other value stays as it was written. Raises InvalidEvent."""
    try:
        fields = _fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _written_anew(body)
    for name in _PERSONAL:
        fields.pop(name, None)
    return _encode(fields)


def _written_anew(body: bytes) -> bytes:
    """The same for JSON that only the lenient parser reads."""
    event = parse(body)
    for name in _PERSONAL:
        event.pop(name, None)
    try:
        return ujson.dumps(event, ensure_ascii=False, escape_forward_slashes=False, reject_bytes=True).encode()
    except (ValueError, OverflowError, RecursionError):
        check(event, body)  # it knows why, but for values inside unknown fields
        raise InvalidEvent(FieldError(None, "holds a value that cannot be stored")) from None


def _read(body: bytes) -> _Given:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event = parse(body)
    for name in _NAMES:
        if not isinstance(event.get(name), str | None):
            raise InvalidEvent(FieldError(name, "must be a string or null"))
    return _Given(*map(event.get, _NAMES))


def _received_us(text: str | None, now_us: int, retention_days: int) -> int:
    if text is None:
        return now_us
    received_us = event_time_us(text, now_us)
    if received_us is None or received_us > now_us:
        raise InvalidEvent(
            FieldError(_RECEIVED_AT, "must be an RFC 3339 date-time, not in the future and at most 10 years ago")
        )
    if retention_days and received_us // US_PER_DAY < now_us // US_PER_DAY - retention_days:
        raise InvalidEvent(
            FieldError(_RECEIVED_AT, f"must be at most {retention_days} days ago; older days are not kept")
        )
    return received_us


def _client(text: str | None) -> Address | None:
    if text is None:
        return None
    address = parse_address(text)
    if address is None:
        raise InvalidEvent(FieldError(_CLIENT_IP, "must be an IP address"))
    return address
