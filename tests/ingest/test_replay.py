"""Replay: a record gives the row that was acknowledged, and is not validated again."""

from datetime import datetime, timedelta
from io import BytesIO
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings

from collector.config import SiteSettings
from collector.events import COLUMNS, Event
from collector.ingest.pipeline import Arrival, accept, replay
from collector.journal.record import Record, crc_seed, encode, scan
from collector.sites import build_site
from tests.crash.conftest import times
from tests.ingest.test_hostile import bodies
from tests.support import NOON_US, body

ID = "0123456789abcdef"  # of the segment
SITE = build_site("a", SiteSettings())
NAMES = [column.name for column in COLUMNS]


def record_of(event: Event) -> Record:
    """What a segment gives back for the event: through the bytes of its record."""
    (record,) = scan(BytesIO(encode([event], crc_seed(ID))), ID)
    assert isinstance(record, Record)
    return record


def values(data: bytes) -> tuple[dict[str, Any], bool]:
    event, fits = replay(Record(0, 0, "a", NOON_US, None, None, data))
    return {name: value for name, value in zip(NAMES, event.row, strict=True) if value is not None}, fits


@settings(max_examples=times(200, 500), deadline=None)
@given(bodies())
def test_replayed_row_is_the_row_that_was_stored(data: bytes) -> None:
    """For every body that is accepted, however strange."""
    arrival = Arrival(SITE, ip_address("192.0.2.1"), user_agent="Mozilla/5.0 \udce9")
    outcome = accept(arrival, data, NOON_US, lambda address, received_us: str(address))
    if isinstance(outcome, Event):
        assert (outcome, True) == replay(record_of(outcome))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"session_id": 7}, "session_id"),
        ({"lcp": "fast"}, "lcp"),
        ({"lcp": True}, "lcp"),
        ({"page_path": ["/"]}, "page_path"),
        ({"event_time": 1}, "event_time"),
        ({"is_entry": 1}, "is_entry"),
    ],
)
def test_value_that_no_longer_fits_its_column_becomes_null(changes: dict[str, Any], field: str) -> None:
    """An earlier contract accepted the value."""
    row, fits = values(body(visitor_id="kept", **changes))
    assert (False, "kept") == (fits, row["visitor_id"])
    assert field not in row


def test_number_beyond_the_range_becomes_null() -> None:
    row, fits = values(b'{"session_id": "s", "lcp": 1e999}')
    assert ({"site_id": "a", "received_at": NOON_US, "session_id": "s"}, False) == (row, fits)


def test_text_that_arrow_cannot_hold_becomes_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such event is accepted. If one were, it must not keep the rest of its segment from being published."""
    monkeypatch.setattr("collector.ingest.schema.ujson.loads", lambda _: {"session_id": "s", "browser": "\udc80"})
    row, fits = values(b"{}")
    assert ({"site_id": "a", "received_at": NOON_US, "session_id": "s"}, False) == (row, fits)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff"])
def test_record_that_is_no_longer_an_event_becomes_a_row_of_nulls(data: bytes) -> None:
    assert ({"site_id": "a", "received_at": NOON_US}, False) == values(data)


def test_tightened_contract_drops_nothing() -> None:
    """Rules about required fields, enums and lengths apply only to new events."""
    row, fits = values(b'{"event_type": "no such type", "page_path": "", "gone": 1}')
    assert (True, "no such type", "") == (fits, row["event_type"], row["page_path"])
    assert "gone" not in row


@pytest.mark.parametrize("changes", [{}, {"unknown": 1}], ids=["by the reader", "by the validator"])
@pytest.mark.parametrize(
    "received", ["1970-01-01T00:00:00+00:00", "2024-02-29T12:00:00+00:00", "2206-01-01T00:00:00+00:00"]
)
def test_time_is_checked_against_the_receipt_in_its_record(received: str, changes: dict[str, Any]) -> None:
    """Memory and journal give the same row, no matter when the record is read back."""
    moment = datetime.fromisoformat(received)
    received_us = round(moment.timestamp()) * 1_000_000
    arrival = Arrival(SITE, ip_address("192.0.2.1"))
    for days, is_kept in ((-3_654, False), (-3_650, True), (0, True), (1, True), (2, False)):
        words = (moment + timedelta(days=days)).isoformat()
        outcome = accept(arrival, body(event_time=words, **changes), received_us, lambda address, us: None)
        assert isinstance(outcome, Event)
        assert (outcome, True) == replay(record_of(outcome))
        row = dict(zip(NAMES, outcome.row, strict=True))
        assert (is_kept, None if is_kept else words) == (row["event_time"] is not None, row["event_time_raw"])
