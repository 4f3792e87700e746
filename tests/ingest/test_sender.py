"""Events of senders with a key: their time, address and user agent, and what is kept of them."""

import json
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.clock import US_PER_DAY, US_PER_S
from collector.config import SiteSettings
from collector.events import Ignored
from collector.ingest.daily_key import DailyKeys, KeyMissing
from collector.ingest.enrich import client_ip_policy
from collector.ingest.pipeline import replay
from collector.ingest.sender import accept_from_sender, presentable
from collector.journal.record import Record
from collector.sites import build_site
from tests.support import NOON_US, FakeClock, event

SITE = build_site("demo", SiteSettings())
NOW = datetime.fromtimestamp(NOON_US / US_PER_S, UTC)
DAY = timedelta(days=1)


def keys_at(tmp_path: Path) -> DailyKeys:
    keys = DailyKeys(tmp_path, FakeClock())
    keys.tend()
    return keys


def accepted(
    body: bytes | dict[str, Any], policy: str = "full", retention_days: int = 0, keys: DailyKeys | None = None
) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    keys = keys or DailyKeys(Path(), FakeClock())
    return accept_from_sender(SITE, data, NOON_US, retention_days, client_ip_policy(policy, keys))


def us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (None, NOW),
        (NOW.isoformat(), NOW),
        ("2026-05-28T20:26:40Z", NOW),
        ("2026-05-28 22:26:40+02:00", NOW),
        ("2016-05-28T20:26:40Z", datetime(2016, 5, 28, 20, 26, 40, tzinfo=UTC)),
        ("2020-02-29T12:00:00.000001Z", datetime(2020, 2, 29, 12, 0, 0, 1, UTC)),
    ],
)
def test_received_at_takes_the_place_of_the_receipt(text: str | None, moment: datetime) -> None:
    found = accepted(event(received_at=text))
    assert us(moment) == found.received_us == found.row[1]


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-05-28", "2026-05-28T20:26:41Z", "2026-05-28T20:26:40.000001Z", "2027-01-01T00:00:00Z",
     "2016-05-28T20:26:39Z", "1970-01-01T00:00:00Z", "2026-02-30T00:00:00Z"],
)  # fmt: skip
def test_time_that_is_none_or_out_of_range_is_invalid(text: str) -> None:
    outcome = accepted(event(received_at=text))
    assert isinstance(outcome, Ignored)
    assert outcome.message == (
        "Validation error: received_at must be an RFC 3339 date-time, not in the future and at most 10 years ago"
    )


def test_day_that_is_not_kept_is_invalid() -> None:
    """Expiry deletes the days more than `retention_days` before today."""
    kept, over = NOW - 7 * DAY, (NOW - 7 * DAY).replace(hour=0, minute=0, second=0) - timedelta(seconds=1)
    assert us(kept) == accepted(event(received_at=kept.isoformat()), retention_days=7).received_us
    outcome = accepted(event(received_at=over.isoformat()), retention_days=7)
    assert "Validation error: received_at must be at most 7 days ago; older days are not kept" == outcome.message


def test_event_time_is_compared_with_the_given_receipt() -> None:
    """So history keeps its times: alone, an event may be at most ten years old, or a day ahead."""
    then = datetime(2018, 3, 1, tzinfo=UTC)
    for days, is_time in ((-1, True), (1, True), (2, False), (-3_652, True), (-3_700, False)):
        text = (then + days * DAY).isoformat()
        row = accepted(event(received_at=then.isoformat(), event_time=text)).row
        assert (us(then + days * DAY), None) == (row[9], row[-4]) if is_time else (None, text) == (row[9], row[-4])


@pytest.mark.parametrize("name", ["received_at", "client_ip", "user_agent"])
def test_other_types_are_invalid_and_null_is_as_if_missing(name: str) -> None:
    for value in (1, True, [1], {"a": 1}):
        outcome = accepted(event(**{name: value}))
        assert f"Validation error: {name} must be a string or null" == outcome.message
    assert accepted(event()).row == accepted(event(**{name: None})).row


@pytest.mark.parametrize(
    ("policy", "given_ip", "kept"),
    [
        ("none", "192.0.2.7", None),
        ("truncate", "192.0.2.7", "192.0.2.0"),
        ("truncate", "2001:db8:1:2::7", "2001:db8:1::"),
        ("full", "192.0.2.7", "192.0.2.7"),
        ("full", "::ffff:192.0.2.7", "192.0.2.7"),
        ("full", None, None),
        ("hash", None, None),
    ],
)
def test_privacy_applies_to_the_given_address(policy: str, given_ip: str | None, kept: str | None) -> None:
    found = accepted(event(client_ip=given_ip), policy)
    assert kept == found.client_ip == found.row[-3]


@pytest.mark.parametrize("address", ["", "x", "192.0.2.256", "192.0.2.7:80", "[::1]", "192.0.2.0/24"])
def test_address_that_is_none_is_invalid(address: str) -> None:
    assert "Validation error: client_ip must be an IP address" == accepted(event(client_ip=address)).message


def test_hashes_of_a_past_day_agree_today_and_differ_by_day(tmp_path: Path) -> None:
    """They are made with a key derived from today's: after today, nobody can trace them."""
    keys = keys_at(tmp_path)

    def hashed(day: datetime, address: str = "192.0.2.7") -> str | None:
        ip: str | None = accepted(event(received_at=day.isoformat(), client_ip=address), "hash", keys=keys).client_ip
        return ip

    today = client_ip_policy("hash", keys)(IPv4Address("192.0.2.7"), NOON_US)
    hashes = [hashed(NOW - days * DAY) for days in range(5)]
    assert 5 == len({*hashes})
    assert today == hashes[0]
    assert hashes == [hashed(NOW - days * DAY - timedelta(minutes=days)) for days in range(5)]
    assert hashes[1] != hashed(NOW - DAY, "192.0.2.8")
    other = tmp_path / "other"
    other.mkdir()
    keys = keys_at(other)  # another day's key, or another machine's
    assert hashes[1] != hashed(NOW - DAY)


def test_missing_key_is_not_an_invalid_event() -> None:
    with pytest.raises(KeyMissing):
        accepted(event(client_ip="192.0.2.7", received_at=(NOW - DAY).isoformat()), "hash")


@pytest.mark.parametrize(
    "written",
    ['"client_ip": "192.0.2.7"', '"client\\u005fip": "192.0.2.7"', '"client_ip": "x", "client_ip": "192.0.2.7"'],
)
def test_stored_body_holds_neither_address_nor_user_agent(written: str) -> None:
    text = json.dumps(event(page_title="ü ✓ \ud83d", lcp=1.5, other={"a": [1, None]}))[:-1]
    found = accepted(f'{text}, {written}, "user_agent": "Visitor/9"}}'.encode())
    assert ("192.0.2.7", "Visitor/9") == (found.client_ip, found.user_agent)
    assert b"192.0.2.7" not in found.body
    assert b"Visitor" not in found.body
    again, fits = replay(Record(0, 0, "demo", found.received_us, found.client_ip, found.user_agent, found.body))
    assert (found.row, True) == (again.row, fits)


def test_body_without_them_stays_as_it_was_received() -> None:
    body = b' {"a": 1.0 , ' + json.dumps(event(received_at="2026-05-01T00:00:00Z")).encode()[1:]
    assert body == accepted(body).body


def test_user_agent_is_cut_as_any() -> None:
    assert 512 * "ü" == accepted(event(user_agent=600 * "ü")).user_agent


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
def test_number_that_is_none_keeps_its_message(number: str) -> None:
    """The body cannot be written again, but that is not what is wrong with it."""
    text = json.dumps(event(client_ip="192.0.2.7"))[:-1]
    outcome = accepted(f'{text}, "lcp": {number}}}'.encode())
    assert "Validation error: lcp holds a number beyond the range of a float64" == outcome.message


@pytest.mark.parametrize("other", ["1e999", "[1e999]", "-1e400", "12345678901234567890123", '{"a": [null, {}]}'])
def test_unknown_field_may_hold_anything(other: str) -> None:
    """With an address too: the body is written again then."""
    text = json.dumps(event(client_ip="192.0.2.7"))[:-1]
    found = accepted(f'{text}, "x": {other}}}'.encode())
    assert ("192.0.2.7", "/pricing") == (found.client_ip, found.row[8])
    assert other.encode() in found.body


@given(
    st.dictionaries(
        st.sampled_from(["client_ip", "user_agent", "received_at", "a"]),
        st.recursive(st.none() | st.integers() | st.text() | st.floats(), lambda inner: st.lists(inner), max_leaves=4),
    ),
    st.integers(0, 40),
)
@settings(deadline=None)
def test_rejected_body_never_shows_an_address(values: dict[str, Any], cut: int) -> None:
    body = json.dumps(values | {"client_ip": "192.0.2.77", "user_agent": "Visitor/9"}).encode()
    for sent in (body, body[: len(body) - cut], body + b"}"):
        shown = presentable(sent)
        if shown is not None and b"client_ip" in sent:
            assert b"192.0.2.77" not in shown or b"client_ip" not in sent
            assert json.loads(shown).keys() <= values.keys() - {"client_ip", "user_agent"}


@pytest.mark.parametrize("depth", [900, 1_100, 30_000])
def test_deep_event_is_judged_like_any(depth: int) -> None:
    """msgspec raises RecursionError for it. That would cost all events of its batch, which would be sent for ever."""
    body = json.dumps(event(client_ip="203.0.113.77")).encode()
    deep = body[:-1] + b', "z": ' + b"[" * depth + b"]" * depth + b"}"
    outcome = accepted(deep)
    if isinstance(outcome, Ignored):
        assert "Validation error: body is not one JSON object" == outcome.message
    else:
        assert "203.0.113.77" == outcome.client_ip


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_rejected_body_in_another_encoding_is_not_kept(encoding: str) -> None:
    sent = json.dumps(event(client_ip="203.0.113.77", user_agent="visitor/1")).encode(encoding)
    assert isinstance(accepted(sent), Ignored)
    assert presentable(sent) is None


def test_days_are_those_of_utc() -> None:
    found = accepted(event(received_at="2026-01-01T00:30:00+01:00"))
    assert datetime(2025, 12, 31, tzinfo=UTC) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        days=found.received_us // US_PER_DAY
    )
