"""The pipeline, without HTTP: each step, the order of the steps, and the resulting row."""

from ipaddress import ip_address
from typing import Any

import pytest
import ujson

from collector.config import SiteSettings
from collector.edge.responses import FORMS
from collector.events import COLUMNS, Dropped, Event, Ignored, Kind, Reason, Refused
from collector.ingest.daily_key import DailyKeys
from collector.ingest.enrich import client_ip_policy
from collector.ingest.pipeline import (
    Arrival,
    accept,
    ip_not_excluded,
    not_bot,
    not_localhost,
    origin_allowed,
    tracking_enabled,
)
from collector.parts.table import to_batch
from collector.sites import Site, build_site
from tests.ingest import oracle
from tests.support import NOON_US, FakeClock, body, event


def site(**settings: Any) -> Site:
    return build_site("demo", SiteSettings.model_validate(settings))


def arrival(
    of: Site | None = None,
    client: str = "192.0.2.7",
    origin: str | None = None,
    referer: str | None = None,
    user_agent: str | None = None,
) -> Arrival:
    return Arrival(of or site(), ip_address(client), origin, referer, user_agent)


def admit(arrived: Arrival) -> Dropped | None:
    """Run the steps that need no body, in their order in docs/sending-events.md."""
    steps = (tracking_enabled, not_localhost, origin_allowed, ip_not_excluded, not_bot)
    return next((dropped for step in steps if (dropped := step(arrived)) is not None), None)


def run(arrived: Arrival, data: bytes) -> Event | Dropped:
    """Run all steps."""
    return admit(arrived) or accept(arrived, data, NOON_US, lambda address, received_us: str(address))


def reason(outcome: Event | Dropped | None) -> str:
    return "stored" if outcome is None or isinstance(outcome, Event) else outcome.reason.value


def row(outcome: Event | Dropped) -> dict[str, Any]:
    """The stored event as a reader gets it."""
    assert isinstance(outcome, Event)
    (stored,) = to_batch([outcome.row]).to_pylist()
    return dict(stored)


STEPS: dict[str, tuple[dict[str, Any], dict[str, str], bytes]] = {
    "tracking_disabled": ({"tracking": False}, {}, body()),
    "localhost": ({}, {"origin": "http://localhost"}, body()),
    "origin_not_allowed": ({"allowed_origins": ["https://a.example"]}, {"origin": "https://b.example"}, body()),
    "excluded_ip": ({"excluded_ips": ["192.0.2.0/24"]}, {}, body()),
    "bot": ({"bots": "drop"}, {"user_agent": "Googlebot/2.1"}, body()),
    "invalid": ({}, {}, b"{}"),
    "excluded_path": ({"excluded_paths": ["/pricing"]}, {}, body()),
}
"""Each step, in its order in docs/sending-events.md: the settings, the arrival and the body that trigger it."""


@pytest.mark.parametrize("name", STEPS)
def test_step_drops_the_event_under_its_own_reason(name: str) -> None:
    settings, arrived, data = STEPS[name]
    assert name == reason(run(arrival(site(**settings), **arrived), data))
    assert "stored" == reason(run(arrival(site()), body()))


@pytest.mark.parametrize(("first", "second"), [(a, b) for i, a in enumerate(STEPS) for b in list(STEPS)[i + 1 :]])
def test_first_step_that_drops_the_event_decides(first: str, second: str) -> None:
    (settings, arrived, data), (settings_2, arrived_2, data_2) = STEPS[first], STEPS[second]
    if "localhost" in (first, second) and "origin_not_allowed" in (first, second):
        arrived_2 = arrived  # localhost is not an allowed origin either
    bodies = [text for text in (data, data_2) if text != body()] or [body()]
    assert first == reason(run(arrival(site(**settings, **settings_2), **arrived_2 | arrived), bodies[0]))


@pytest.mark.parametrize("name", ["tracking_disabled", "localhost", "origin_not_allowed", "excluded_ip", "bot"])
def test_steps_that_need_no_body_decide_without_one(name: str) -> None:
    settings, arrived, _ = STEPS[name]
    assert name == reason(admit(arrival(site(**settings), **arrived)))


@pytest.mark.parametrize(
    ("expected", "origin", "referer"),
    [
        ("localhost", "http://localhost", None),
        ("localhost", "http://localhost:3000", None),
        ("localhost", "HTTPS://LocalHost", None),
        ("localhost", "http://app.localhost:8080", None),
        ("localhost", "http://a.b.localhost", None),
        ("localhost", "http://127.0.0.1:5173", None),
        ("localhost", "http://127.8.9.10", None),
        ("localhost", "http://[::1]:3000", None),
        ("localhost", "http://0.0.0.0:8000", None),
        ("localhost", None, "http://localhost:3000/page?x=1"),
        ("localhost", None, "http://user@127.0.0.1/"),
        ("localhost", "null", "http://localhost/"),
        ("stored", None, None),
        ("stored", "null", None),
        ("stored", "https://example.com", "http://localhost/"),
        ("stored", "https://localhost.example.com", None),
        ("stored", "https://notlocalhost", None),
        ("stored", "https://127.0.0.1.example.com", None),
        ("stored", "https://128.0.0.1", None),
        ("stored", "https://192.168.0.1", None),
        ("stored", "https://[2001:db8::1]", None),
        ("stored", None, "https://example.com/?from=http://localhost"),
        ("stored", None, "https://example.com/@localhost"),
        ("stored", "not a url", None),
    ],
)
def test_localhost_is_the_host_of_origin_else_of_referer(
    expected: str, origin: str | None, referer: str | None
) -> None:
    assert expected == reason(run(arrival(site(), origin=origin, referer=referer), body()))
    assert "stored" == reason(run(arrival(site(allow_localhost=True), origin=origin, referer=referer), body()))


@pytest.mark.parametrize(
    ("expected", "listed", "origin"),
    [
        ("stored", [], "https://anyone.example"),
        ("stored", ["https://a.example"], "https://a.example"),
        ("stored", ["https://a.example"], None),
        ("stored", ["null"], "null"),
        ("origin_not_allowed", ["https://a.example"], "null"),
        ("origin_not_allowed", ["*.a.example"], "https://a.example"),
    ],
)
def test_origin_must_be_listed_if_any_is(expected: str, listed: list[str], origin: str | None) -> None:
    assert expected == reason(run(arrival(site(allowed_origins=listed), origin=origin), body()))


APPS = ["capacitor://localhost", "https://localhost", "http://127.0.0.1:3000", "http://[::1]:3000", "https://a.example"]


@pytest.mark.parametrize(
    ("expected", "origin", "referer"),
    [
        *(("stored", origin, None) for origin in APPS),
        ("stored", "HTTPS://LocalHost", None),
        # With an origin, the referer is ignored.
        ("stored", "https://localhost", "http://localhost/"),
        ("localhost", "http://localhost", "https://localhost/"),
        # Other origins on localhost are ignored as localhost; origins elsewhere are not allowed.
        ("localhost", "http://localhost", None),
        ("localhost", "https://localhost:8443", None),
        ("localhost", "https://app.localhost", None),
        ("localhost", "https://localhost.", None),
        ("localhost", "ionic://localhost", None),
        ("localhost", "http://127.0.0.1:3001", None),
        ("localhost", "http://127.0.0.2:3000", None),
        ("localhost", "http://[::1]", None),
        ("localhost", "https://localhost/", None),
        ("origin_not_allowed", "https://b.example", None),
        ("origin_not_allowed", "null", None),
        # Without an origin, the referer's origin counts.
        ("stored", None, "https://localhost/index.html?x#y"),
        ("stored", None, "HTTPS://LocalHost:443"),
        ("stored", None, "https://user:password@localhost/"),
        ("stored", None, "http://127.0.0.1:3000/page"),
        ("stored", None, "http://[::1]:3000"),
        ("stored", None, "capacitor://localhost/"),
        ("stored", None, "https://b.example/page"),
        ("localhost", None, "https://localhost:8443/"),
        ("localhost", None, "http://localhost:443/"),
        ("localhost", None, "http://127.0.0.1:30001/"),
        ("localhost", None, "http://127.0.0.1:3000x/"),
        ("localhost", None, "http://localhost/https://localhost/"),
        ("localhost", None, "http://[::1]:3000:3000/"),
        ("localhost", None, "https://localhost:99999999999999999999/"),
    ],
)
def test_origin_on_localhost_is_let_in_if_listed_by_name(
    expected: str, origin: str | None, referer: str | None
) -> None:
    assert expected == reason(run(arrival(site(allowed_origins=APPS), origin=origin, referer=referer), body()))


@pytest.mark.parametrize(
    ("expected", "listed", "origin", "referer"),
    [
        ("localhost", ["*.localhost"], "https://app.localhost", None),
        ("localhost", ["*.localhost"], None, "https://app.localhost/"),
        # An opaque origin has no host: the referer decides whether it is localhost, the origin whether it is allowed.
        ("localhost", ["null"], "null", "https://localhost/"),
        ("origin_not_allowed", ["https://localhost"], "null", "https://localhost/"),
        ("stored", ["https://localhost", "null"], "null", "https://localhost/"),
    ],
)
def test_wildcard_or_opaque_origin_does_not_let_localhost_in(
    expected: str, listed: list[str], origin: str | None, referer: str | None
) -> None:
    assert expected == reason(run(arrival(site(allowed_origins=listed), origin=origin, referer=referer), body()))


@pytest.mark.parametrize(
    ("expected", "client"),
    [
        ("excluded_ip", "192.0.2.7"),
        ("excluded_ip", "2001:db8::1"),
        ("stored", "192.0.3.7"),
        ("stored", "2001:db9::1"),
    ],
)
def test_excluded_client_is_ignored(expected: str, client: str) -> None:
    excluding = site(excluded_ips=["192.0.2.0/24", "2001:db8::/32"])
    assert expected == reason(run(arrival(excluding, client), body()))


@pytest.mark.parametrize(
    ("expected", "path"),
    [
        ("excluded_path", "/admin"),
        ("excluded_path", "/admin/x?y"),
        ("excluded_path", "/exact#top"),
        ("excluded_path", "/%65xact"),
        ("excluded_path", "/b%C3%BCro/x?y"),
        ("stored", "/Admin"),
        ("stored", "/exact/"),
    ],
)
def test_excluded_path_is_ignored(expected: str, path: str) -> None:
    assert expected == reason(run(arrival(site(excluded_paths=["/admin*", "/exact", "/büro/*"])), body(page_path=path)))


def test_only_a_disallowed_origin_is_refused_and_all_else_is_ignored() -> None:
    outcomes = [run(arrival(site(**settings), **arrived), data) for settings, arrived, data in STEPS.values()]
    assert [Ignored, Ignored, Refused, Ignored, Ignored, Ignored, Ignored] == [type(outcome) for outcome in outcomes]
    assert set(FORMS) == set(Reason) - {
        Reason.TRACKING_DISABLED,
        Reason.LOCALHOST,
        Reason.EXCLUDED_IP,
        Reason.EXCLUDED_PATH,
        Reason.OPTED_OUT,
        Reason.BOT,
        Reason.ABORTED,
    }


def strict_errors(data: bytes) -> set[str | None]:
    outcome = run(arrival(site(strict=True)), data)
    assert isinstance(outcome, Refused)
    assert Reason.INVALID is outcome.reason
    return {error.field for error in outcome.errors}


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        ({None}, b"["),
        ({"lcp", "page_title"}, body(lcp="1", page_title=1)),
        ({"lcp"}, body(lcp=float("nan"))),
        ({"lcp", "page_title"}, body(lcp=float("inf"), page_title=1)),
        ({"lcp", "cls"}, body(lcp=10**400, cls=float("nan"))),
        ({None, "page_title"}, body(unknown=float("nan"), page_title=1)),
    ],
)
def test_strict_site_reports_every_error(fields: set[str | None], data: bytes) -> None:
    assert fields == strict_errors(data)


@pytest.mark.parametrize(
    ("kept", "sent"),
    [
        (None, None),
        ("", ""),
        ("curl/8", "curl/8"),
        ("x" * 512, "x" * 512),
        ("x" * 512, "x" * 513),
        ("é" * 512, "é" * 8000),
        ("caf\ufffd", "caf\udce9"),
        ("\ufffdé", "\udcff\udcc3\udca9"),
        ("\ufffd" * 512, "\udcff" * 600),
    ],
)
def test_user_agent_is_cut_and_cleaned(kept: str | None, sent: str | None) -> None:
    """aiohttp passes bytes that are not UTF-8 as surrogates."""
    assert kept == row(run(arrival(site(), user_agent=sent), body()))["user_agent"]


SAMPLES: dict[str, list[Any]] = {"string": ["é😀", ""], "number": [3, 2.5, 2**53 + 1, -0.0], "boolean": [True, False]}


@pytest.mark.parametrize("turn", range(4))
def test_every_field_lands_in_its_column(turn: int) -> None:
    """Each field gets a different value, if its type has enough values."""
    sent: dict[str, Any] = {}
    for index, field in enumerate(oracle.FIELDS):
        samples: list[Any] = [*field.values] or SAMPLES[field.types[0]]
        sample = samples[turn % len(samples)]
        sent[field.name] = f"{index:08}{sample}" if field.types[0] == "string" and not field.values else sample
        if field.types[0] == "number" and turn:
            sent[field.name] = sample + index
    sent["event_time"] = f"2026-05-12T10:00:00.{turn}Z"
    data = body(**sent)
    stored = row(run(arrival(site(), user_agent="curl/8"), data))
    received_at = stored.pop("received_at")
    assert NOON_US == round(received_at.timestamp() * 1e6)
    assert {
        "site_id": "demo",
        "client_ip": "192.0.2.7",
        "user_agent": "curl/8",
        "bot": "curl",
        "event_time_raw": None,
    } | (oracle.row_of(data, NOON_US) or {}) == stored
    assert [column.name for column in COLUMNS] == ["site_id", "received_at", *list(stored)[1:]]


def test_row_holds_only_types_that_fit_their_columns() -> None:
    outcome = run(arrival(site()), body(lcp=1, cls=2**60, is_exit=True, browser=None))
    assert isinstance(outcome, Event)
    types = {Kind.STRING: str, Kind.NUMBER: float, Kind.BOOLEAN: bool, Kind.TIMESTAMP: int}
    wrong = [
        column.name
        for column, value in zip(COLUMNS, outcome.row, strict=True)
        if value is not None and type(value) is not types[column.kind]
    ]
    assert [] == wrong


@pytest.mark.parametrize(
    ("raw", "words"), [(None, "2026-05-12T10:00:00Z"), ("yesterday", "yesterday"), ("", ""), ("1.5", "1.5")]
)
def test_event_time_that_is_not_a_time_keeps_its_text(raw: str | None, words: str) -> None:
    stored = row(run(arrival(site()), body(event_time=words)))
    assert (raw is not None, raw) == (stored["event_time"] is None, stored["event_time_raw"])


def test_unknown_fields_are_dropped() -> None:
    unknown = run(arrival(site()), body(unknown={"deep": [1]}, site_id="other", client_ip="x", received_at=0))
    assert row(run(arrival(site()), body())) == row(unknown)


def test_policy_gets_the_client_and_the_time_of_receipt(tmp_path: Any, clock: FakeClock) -> None:
    asked: list[object] = []
    accept(arrival(), body(), NOON_US, lambda *arguments: asked.append(arguments))
    assert [(ip_address("192.0.2.7"), NOON_US)] == asked
    keys = DailyKeys(tmp_path, clock)
    keys.tend()
    hashed = accept(arrival(), body(), NOON_US, client_ip_policy("hash", keys))
    assert 32 == len(row(hashed)["client_ip"])


@pytest.mark.parametrize(
    ("user_agent", "changes"),
    [
        (None, {}),
        ("x" * 512, {}),
        ("€" * 512, {}),
        ("\udcff" * 512, {}),
        (None, {"browser": "x" * 60_000}),
        (None, {"browser": "€" * 10_000 + "😀"}),
        (None, {"browser": "\ud83d" * 5_000}),
        (None, {field.name: 1.5 for field in oracle.FIELDS if field.types[0] == "number"}),
        (None, {"event_time": "€" * 1_000}),
    ],
)
def test_event_is_charged_at_least_what_its_columns_take(user_agent: str | None, changes: dict[str, Any]) -> None:
    """Otherwise the journal's limit would not bound memory."""
    outcome = accept(
        arrival(build_site("x" * 64, SiteSettings()), user_agent=user_agent),
        ujson.dumps(event(**changes), ensure_ascii="\ud83d" in changes.get("browser", "")).encode(),
        NOON_US,
        lambda address, received_us: "0" * 32,
    )
    assert isinstance(outcome, Event)
    rows = 256
    assert to_batch([outcome.row] * rows).nbytes <= rows * outcome.size_bytes
