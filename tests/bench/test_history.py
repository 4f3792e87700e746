"""History to import is valid, in order, and counted."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from bench.history import DAYS, SESSION, history, import_history
from bench.peak import Shape
from bench.sample import bodies
from bench.server import NoResult
from bench.subject import Setup
from collector.config import SiteSettings
from collector.events import Event
from collector.ingest.sender import accept_from_sender
from collector.sites import build_site

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1e6)
EVENTS = 120


def test_history_is_accepted_event_by_event() -> None:
    site = build_site("site-0", SiteSettings())
    accepted = [
        accept_from_sender(site, line, NOW_US, 0, lambda address, _: str(address)) for line in history(EVENTS, 50, NOW)
    ]
    assert EVENTS == len(accepted)
    for event in accepted:
        assert isinstance(event, Event), event


def test_history_is_of_its_days_in_order_and_no_two_events_are_alike() -> None:
    events = [json.loads(line) for line in history(EVENTS, 50, NOW)]
    received = [datetime.fromisoformat(event["received_at"]) for event in events]
    assert sorted(received) == received
    assert (NOW - timedelta(days=DAYS), NOW - timedelta(days=DAYS) / EVENTS) == (received[0], received[-1])
    assert EVENTS == len({event["session_id"] for event in events})
    assert 50 == len({event["visitor_id"] for event in events})
    assert 25 < len({(event["client_ip"], event["user_agent"]) for event in events})


def test_session_is_at_the_place_that_is_replaced() -> None:
    for event in bodies(50):
        assert event.startswith(SESSION)
        assert b'"' == event[len(SESSION) + 24 :][:1]


def test_import_counts_every_event_of_a_real_process() -> None:
    run = import_history(Setup(), Shape(requests=50), EVENTS)
    assert EVENTS == run["events"]
    assert DAYS <= run["parts"] <= DAYS + 1
    assert 0 < run["importer_cpu_us_per_event"]
    assert 0 < run["took_s"] < run["until_parquet_s"]


def test_import_of_events_that_are_not_stored_is_no_result() -> None:
    """All are older than the day that is kept."""
    with pytest.raises(NoResult, match="the import exited with 1"):
        import_history(Setup(settings={"storage": {"retention_days": 1}}), Shape(requests=50), EVENTS)
