"""Senders with a key: servers and imports. What a key opens, what it does not, and what a wrong one costs."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from collector.config import SiteSettings
from collector.sender_keys import fingerprint
from collector.sites import build_sites
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import head, request, tally
from tests.support import Running, body, event

KEY, OTHER = "ck_correct-horse", "ck_battery-staple"
AUTHORIZED = b"Authorization: Bearer " + KEY.encode()
LOCALHOST = b"Origin: http://localhost:3000"
PATHS = pytest.mark.parametrize("path", ["analytics/collect", "e", "batch"])


def site(**settings: Any) -> dict[str, dict[str, Any]]:
    return {"demo": {"keys": [fingerprint(OTHER), fingerprint(KEY)]} | settings}


def sent(*headers: bytes, path: str = "batch", data: bytes | None = None) -> bytes:
    return request(body() if data is None else data, *headers, target=f"/public/demo/{path}")


def given(**values: object) -> bytes:
    return json.dumps(event() | values).encode()


@PATHS
async def test_key_lifts_the_rate_limit(serve: Serve, connect: Connect, path: str) -> None:
    collector = await serve(site(), rate_limit={"requests_per_minute": 60, "burst": 2})
    wire = await connect(collector)
    assert [201] * 5 == [(await wire.ask(sent(AUTHORIZED, path=path))).status for _ in range(5)]
    assert [201, 201, 429] == [(await wire.ask(sent(path=path))).status for _ in range(3)]


@PATHS
async def test_key_needs_no_page(serve: Serve, connect: Connect, path: str) -> None:
    """It lifts the checks of the origin and of localhost."""
    collector = await serve(site(allowed_origins=["https://shop.example"]))
    wire = await connect(collector)
    for origin in (LOCALHOST, b"Origin: https://evil.example", b"Referer: http://localhost/"):
        assert 201 == (await wire.ask(sent(AUTHORIZED, origin, path=path))).status
    assert 403 == (await wire.ask(sent(b"Origin: https://evil.example", path=path))).status


@PATHS
async def test_key_does_not_lift_what_the_site_has_set(serve: Serve, connect: Connect, path: str) -> None:
    collector = await serve(site(tracking=False))
    answer = await (await connect(collector)).ask(sent(AUTHORIZED, path=path))
    assert (202, "tracking_disabled") == (answer.status, answer.reason)


@PATHS
@pytest.mark.parametrize("key", [b"ck_wrong", b"", KEY.encode()[:-1], KEY.encode() + b"x", b"\xff\xfe"])
async def test_wrong_key_is_refused(serve: Serve, connect: Connect, path: str, key: bytes) -> None:
    collector = await serve(site())
    answer = await (await connect(collector)).ask(sent(b"Authorization: Bearer " + key, path=path))
    assert (401, "unauthorized", "Bearer") == (answer.status, answer.reason, answer.headers["WWW-Authenticate"])
    assert "UNAUTHORIZED" == answer.json["errors"][0]["code"]
    assert {"received": 1, "unauthorized": 1} == tally(collector)


@PATHS
async def test_wrong_key_costs_a_token(serve: Serve, connect: Connect, path: str) -> None:
    """So keys cannot be guessed faster than the rate limit allows."""
    collector = await serve(site(), rate_limit={"requests_per_minute": 60, "burst": 2})
    wire = await connect(collector)
    wrong = sent(b"Authorization: Bearer wrong", path=path)
    assert [401, 401, 429, 429] == [(await wire.ask(wrong)).status for _ in range(4)]
    assert 201 == (await wire.ask(sent(AUTHORIZED, path=path))).status


@PATHS
@pytest.mark.parametrize(
    ("keys", "header"),
    [
        ([fingerprint(KEY)], b"Authorization: Basic YTpi"),
        ([fingerprint(KEY)], b"Authorization: " + KEY.encode()),
        ([fingerprint(KEY)], b"Authorization: Bearerish " + KEY.encode()),
        ([], b"Authorization: Bearer wrong"),
    ],
)
async def test_other_schemes_and_sites_without_keys_ignore_the_header(
    serve: Serve, connect: Connect, path: str, keys: list[str], header: bytes
) -> None:
    """Behind a proxy with a password, every browser sends one."""
    collector = await serve(site(keys=keys))
    wire = await connect(collector)
    assert 201 == (await wire.ask(sent(header, path=path))).status
    assert 202 == (await wire.ask(sent(header, LOCALHOST, path=path))).status


@pytest.mark.parametrize("scheme", [b"bearer ", b"BEARER ", b"Bearer  "])
async def test_scheme_is_read_as_http_does(serve: Serve, connect: Connect, scheme: bytes) -> None:
    """RFC 9110, 11.1: in any case, and after any blanks."""
    collector = await serve(site())
    header = b"Authorization: " + scheme + KEY.encode()
    assert 201 == (await (await connect(collector)).ask(sent(header, LOCALHOST))).status


async def test_key_of_another_site_is_wrong(serve: Serve, connect: Connect) -> None:
    collector = await serve(site() | {"blog": {"keys": [fingerprint("ck_blog")]}})
    wire = await connect(collector)
    assert 401 == (await wire.ask(sent(b"Authorization: Bearer ck_blog"))).status


async def test_no_preflight_allows_a_key(serve: Serve, connect: Connect) -> None:
    """A key in a page would be no secret."""
    wire = await connect(await serve(site()))
    for asked, allowed in [
        (b"authorization", "Content-Type"),
        (b"Authorization, content-type", "content-type"),
        (b"content-type,AUTHORIZATION,idempotency-key", "content-type, idempotency-key"),
        (b"x-authorization", "x-authorization"),
    ]:
        asks = (b"Origin: https://a.example", b"Access-Control-Request-Headers: " + asked)
        answer = await wire.ask(head(*asks, method="OPTIONS", target="/public/demo/e"))
        assert (204, allowed) == (answer.status, answer.headers["Access-Control-Allow-Headers"])


async def test_no_key_gets_into_the_log(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when the request fails in the collector."""
    collector = await serve(site())
    monkeypatch.setattr("collector.edge.batch.accept_from_sender", lambda *_: 1 / 0)
    caplog.set_level("DEBUG")
    wire = await connect(collector)
    assert 500 == (await wire.ask(sent(AUTHORIZED))).status
    assert 401 == (await wire.ask(sent(b"Authorization: Bearer " + OTHER.encode() + b"x"))).status
    assert caplog.records
    assert KEY not in caplog.text
    assert OTHER not in caplog.text


@PATHS
async def test_sender_itself_is_no_visitor(serve: Serve, connect: Connect, path: str) -> None:
    """Its own address and user agent are neither stored nor judged."""
    collector = await serve(site(excluded_ips=["127.0.0.1"]), privacy={"client_ip": "full"})
    answer = await (await connect(collector)).ask(sent(AUTHORIZED, b"User-Agent: python/3", path=path))
    assert 201 == answer.status
    await collector.flush()
    assert [(None, None)] == [(row["client_ip"], row["user_agent"]) for row in collector.rows()]


@PATHS
async def test_event_may_be_of_the_past_and_of_a_visitor(serve: Serve, connect: Connect, path: str) -> None:
    collector = await serve(site(), privacy={"client_ip": "full"})
    data = given(received_at="2020-02-29T23:59:59.5Z", client_ip="192.0.2.7", user_agent="Visitor/1")
    assert 201 == (await (await connect(collector)).ask(sent(AUTHORIZED, path=path, data=data))).status
    await collector.flush()
    (row,) = collector.rows()
    assert ("192.0.2.7", "Visitor/1") == (row["client_ip"], row["user_agent"])
    assert "2020-02-29T23:59:59.500000+00:00" == row["received_at"].isoformat()
    assert ["date=2020-02-29"] == [day.name for day in (collector.data_dir / "events" / "site=demo").iterdir()]


@PATHS
async def test_fields_of_a_sender_without_a_key_are_ignored(serve: Serve, connect: Connect, path: str) -> None:
    collector = await serve(site(), privacy={"client_ip": "full"})
    data = given(received_at="2020-01-01T00:00:00Z", client_ip="not an address", user_agent=7)
    answer = await (await connect(collector)).ask(sent(b"User-Agent: Mine/1", path=path, data=data))
    assert 201 == answer.status
    await collector.flush()
    (row,) = collector.rows()
    assert ("127.0.0.1", "Mine/1", 2026) == (row["client_ip"], row["user_agent"], row["received_at"].year)


async def test_journal_holds_no_address_that_the_privacy_settings_refuse(serve: Serve, connect: Connect) -> None:
    """The body is stored as received otherwise, and would keep what the row drops."""
    collector = await serve(site(), privacy={"client_ip": "none"})
    wire = await connect(collector)
    for data in (
        given(client_ip="198.51.100.77", user_agent="Secret/9"),
        given(client_ip="198.51.100.77").replace(b"client_ip", rb"client\u005fip"),
        given(client_ip="198.51.100.77", session_id=7),
        given(client_ip="198.51.100.77", received_at="soon"),
        given(client_ip="198.51.100.77")[:-1],
    ):
        await wire.ask(sent(AUTHORIZED, data=data))
    assert {"received": 5, "stored": 2, "invalid": 3} == tally(collector)
    on_disk = b"".join(path.read_bytes() for path in collector.data_dir.rglob("*") if path.is_file())
    assert b"visitor-0001" in on_disk
    assert b"198.51.100.77" not in on_disk
    await collector.flush()
    assert not any("198.51.100.77" in row["body"] for row in collector.rejected())
    assert 2 == len(collector.rejected())


async def test_visitors_are_excluded_by_the_address_that_is_given(serve: Serve, connect: Connect) -> None:
    collector = await serve(site(excluded_ips=["192.0.2.0/24"]))
    data = b"\n".join([given(client_ip="192.0.2.7"), given(client_ip="198.51.100.1"), given()])
    answer = await (await connect(collector)).ask(sent(AUTHORIZED, data=data))
    assert (202, 2, [(0, "excluded_ip")]) == (
        answer.status,
        answer.json["stored"],
        [(each["index"], each["reason"]) for each in answer.json["errors"]],
    )


async def test_batches_of_the_same_key_take_turns(serve: Serve, connect: Connect) -> None:
    collector = await serve(site())
    wires = [await connect(collector) for _ in range(4)]
    data = b"\n".join([body()] * 500)
    answers = await asyncio.gather(*(wire.ask(sent(AUTHORIZED, data=data)) for wire in wires))
    assert [201] * 4 == [answer.status for answer in answers]
    assert {"received": 2_000, "stored": 2_000} == tally(collector)


async def test_reload_can_add_and_remove_keys(connect: Connect, collector: Running) -> None:
    """A request reads the rules of its moment."""
    wire = await connect(collector)
    decider = collector.stages.decider
    for keys, status in (([], 202), ([KEY], 201), ([OTHER], 401)):
        settings = SiteSettings(keys=tuple(map(fingerprint, keys)))
        decider.rules = replace(decider.rules, sites=build_sites({"demo": settings}))
        assert status == (await wire.ask(sent(AUTHORIZED, LOCALHOST))).status


async def test_nobody_without_a_key_can_take_the_idempotency_keys_of_senders(serve: Serve, connect: Connect) -> None:
    """The sender would get the answer to the other batch, and lose its own."""
    collector = await serve(site())
    wire = await connect(collector)
    named = b"Idempotency-Key: orders-2026-05-12"
    other = await wire.ask(request(body(page_path="/other"), named, target="/public/demo/batch"))
    assert (201, 1) == (other.status, json.loads(other.body)["stored"])
    for _ in range(2):  # its own key still holds
        events = b"\n".join([body(page_path="/orders")] * 2)
        answer = await wire.ask(request(events, AUTHORIZED, named, target="/public/demo/batch"))
        assert (201, 2) == (answer.status, json.loads(answer.body)["stored"])
    await collector.flush()
    assert ["/orders", "/orders", "/other"] == sorted(row["page_path"] for row in collector.rows())
