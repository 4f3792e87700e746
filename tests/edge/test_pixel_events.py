"""Events of pixels: what a query, a Referer, an address and a user agent give, without a server."""

import json
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_from_bytes, quote_plus, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.config import SiteSettings
from collector.edge.pixel import Pixels
from collector.edge.request import Request
from collector.edge.routes import Routes
from collector.events import FIELDS, Event, Kind
from collector.ingest.daily_key import DailyKeys
from collector.ingest.enrich import client_ip_policy
from collector.ingest.pipeline import Arrival, accept
from collector.sites import build_site
from tests.crash.conftest import times
from tests.ingest import oracle
from tests.support import NOON_US, FakeClock

SITE = build_site("demo", SiteSettings())
ROUTE = Routes().find("GET", "/public/demo/p.gif")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def asked(query: str, headers: dict[str, str] | None = None) -> Request:
    made = Request("GET", ROUTE, None, headers or {}, 0, False)
    made.site, made.client, made.pixel_query = SITE, None, query
    return made


@pytest.fixture
def keys(tmp_path: Path) -> DailyKeys:
    made = DailyKeys(tmp_path, FakeClock())
    made.tend()
    return made


def ids(keys: DailyKeys, address: str | None, agent: str = "A", query: str = "") -> tuple[str | None, ...]:
    """The visitor, its source and the session that a pixel gets."""
    request = asked(query, {"user-agent": agent})
    request.client = None if address is None else ip_address(address)
    made = json.loads(Pixels(keys).event(request, NOON_US))
    return made["visitor_id"], made.get("visitor_id_source"), made["session_id"]


def test_visitor_is_made_of_address_and_user_agent(keys: DailyKeys) -> None:
    first, source, session = ids(keys, "192.0.2.7")
    assert ("fingerprint", first) == (source, session)
    assert first == ids(keys, "192.0.2.7")[0]
    others = (("192.0.2.8", "A"), ("2001:db8::1", "A"), ("192.0.2.7", "B"), ("192.0.2.7", ""), ("192.0.2.7", "\udcff"))
    assert 6 == len({first, *(ids(keys, *other)[0] for other in others)})


def test_ids_that_the_query_gives_are_kept(keys: DailyKeys) -> None:
    made = ids(keys, "192.0.2.7")[0]
    assert ("visitor-0001", None, made) == ids(keys, "192.0.2.7", query="visitor_id=visitor-0001")
    assert (made, "fingerprint", "s") == ids(keys, "192.0.2.7", query="session_id=s")
    assert (made, "cookie", made) == ids(keys, "192.0.2.7", query="visitor_id_source=cookie")


def test_visitor_without_an_address_is_random(keys: DailyKeys) -> None:
    """All clients of a proxy that tells no address would otherwise be one visitor."""
    first, second = ids(keys, None), ids(keys, None)
    assert ("fingerprint", first[0]) == first[1:]
    assert first[0] != second[0]


def test_visitor_is_never_the_hash_of_an_address(keys: DailyKeys) -> None:
    """Even if what is hashed is the same: these 16 bytes are an address too."""
    hashed = b"demo\x001.2.3.4\x00Moz"
    assert client_ip_policy("hash", keys)(ip_address(hashed), NOON_US) != ids(keys, "1.2.3.4", "Moz")[0]


def values(field: oracle.Field) -> st.SearchStrategy[Any]:
    if field.values:
        return st.sampled_from(field.values)
    if field.types[0] == "number":
        return st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20)
    if field.types[0] == "boolean":
        return st.booleans()
    least = max(1, field.shortest)
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=least, max_size=least + 20)


def written(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


@settings(max_examples=times(100, 1_000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_pixel_gives_the_row_of_the_same_event(data: st.DataObject) -> None:
    fields = data.draw(st.lists(st.sampled_from(oracle.FIELDS), unique_by=lambda field: field.name, max_size=12))
    required = [field for field in oracle.FIELDS if field.required and field not in fields]
    sent = {field.name: data.draw(values(field)) for field in (*fields, *required)}
    texts = {name: written(value) for name, value in sent.items()}
    query = urlencode(texts, quote_via=data.draw(st.sampled_from([quote, quote_plus])))
    made = Pixels(DailyKeys(Path(), FakeClock())).event(asked(query), NOON_US)
    outcomes = [
        accept(Arrival(SITE, None), each, NOON_US, lambda address, received_us: None)
        for each in (made, json.dumps(sent).encode())
    ]
    assert all(isinstance(outcome, Event) for outcome in outcomes), outcomes
    assert outcomes[0].row == outcomes[1].row  # type: ignore[union-attr]


@settings(max_examples=times(300, 5_000), deadline=None)
@given(st.binary(min_size=1, max_size=30), st.sampled_from([quote_from_bytes, quote_plus]))
def test_bytes_that_are_not_utf_8_are_replaced_and_all_others_kept(
    value: bytes, written: Callable[[bytes], str]
) -> None:
    made = Pixels(DailyKeys(Path(), FakeClock())).event(asked(f"utm_source={written(value)}"), NOON_US)
    assert value.decode("utf-8", "replace") == json.loads(made)["utm_source"]


NAMES = st.sampled_from([field.name for field in FIELDS if field.kind is not Kind.TIMESTAMP]) | TEXT


@settings(max_examples=times(300, 5_000), deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=20)), max_size=8),
    st.binary(max_size=40),
    st.binary(max_size=30),
)
def test_any_query_and_referer_give_an_event_or_a_reason(
    pairs: list[tuple[str, bytes]], raw: bytes, referer: bytes
) -> None:
    """Whatever arrives: the pipeline judges it, and nothing raises."""
    query = "&".join(f"{quote(name)}={quote_from_bytes(value)}" for name, value in pairs)
    query += "&" + raw.decode("utf-8", "surrogateescape")
    request = asked(query, {"referer": referer.decode("utf-8", "surrogateescape")})
    made = Pixels(DailyKeys(Path(), FakeClock())).event(request, NOON_US)
    outcome = accept(Arrival(SITE, None), made, NOON_US, lambda address, received_us: None)
    assert isinstance(outcome, Event) or outcome.reason == "invalid"
