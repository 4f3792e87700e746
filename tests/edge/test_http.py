"""Connections kept, closed, pipelined, upgraded and drained; bytes that are not HTTP; and internal errors."""

import asyncio
from dataclasses import replace
from typing import NoReturn

import pytest

from collector.edge.rate_limit import TokenBuckets
from collector.sites import Site
from tests.edge.conftest import Arrivals, Connect, Serve
from tests.edge.wire import Wire, chunk, head, request, soon, tally, until
from tests.support import FakeClock, Running, body, event

CHUNKED = b"Transfer-Encoding: chunked"
LAST_CHUNK = chunk(b"")
LENGTH = b"Content-Length: %d" % len(body())
ORIGIN = b"Origin: https://shop.example"
NOT_HTTP = b"Bad request\n"
TLS_HELLO = bytes.fromhex("160301020001 0001fc0303") + bytes(200)


@pytest.mark.parametrize(
    ("line", "kept"), [(b"X: y", False), (b"Connection: keep-alive", True), (b"Connection: close", False)]
)
async def test_http_1_0_connection_closes_unless_the_client_asks_to_keep_it(
    collector: Running, wire: Wire, line: bytes, kept: bool
) -> None:
    sent = request(body(), line, version="1.0")
    assert 201 == (await wire.ask(sent)).status
    assert 201 == (await wire.ask(sent)).status if kept else b"" == await wire.rest()


async def test_connection_stays_open_after_every_complete_request(serve: Serve, connect: Connect) -> None:
    sites = {"demo": {}, "off": {"tracking": False}, "strict": {"strict": True}}
    wire = await connect(await serve(sites, rate_limit={"burst": 7, "requests_per_minute": 1}))
    packed = request(b"", b"Content-Encoding: br")
    asked = [
        (request(body()), 201),
        (request(b"{"), 202),
        (request(b"{", site="strict"), 422),
        (request(body(), site="off"), 202),
        (request(body(), site="nobody"), 404),
        (request(body(), target="/"), 404),
        (request(body(), method="PUT"), 405),
        (head(method="HEAD"), 405),
        (head(method="OPTIONS"), 204),
        (packed, 415),
        (head(CHUNKED) + chunk(body()) + LAST_CHUNK, 201),
        (request(b""), 202),
        (request(body()), 429),
    ]
    assert [status for _, status in asked] == [(await wire.ask(sent)).status for sent, _ in asked]


async def test_request_that_arrives_with_the_end_of_another_body_gets_its_response(
    collector: Running, connect: Connect
) -> None:
    """The first response needs no body; the end of that body arrives a few turns of the loop before or after it."""
    first = request(body(), site="nobody")
    for turns in range(12):
        wire = await connect(collector)
        for _ in range(3):
            wire.send(first[:-9])
            for _ in range(turns):
                await asyncio.sleep(0)
            wire.send(first[-9:] + request(body()))
            assert [404, 201] == [(await wire.answer()).status for _ in range(2)], turns


async def test_pipelined_requests_are_answered_in_order(collector: Running, wire: Wire) -> None:
    wire.send(request(body()) + request(b"{") + request(b"", site="nobody") + request(body()))
    assert [201, 202, 404, 201] == [(await wire.answer()).status for _ in range(4)]
    assert {"received": 3, "stored": 2, "invalid": 1} == tally(collector)


async def test_response_to_head_has_no_body(wire: Wire) -> None:
    """The client would read a body as the next response."""
    answer = await wire.ask(head(method="HEAD"))
    assert (405, b"") == (answer.status, answer.body)
    assert 201 == (await wire.ask(request(body()))).status


@pytest.mark.parametrize(
    ("method", "target"),
    [("OPTIONS", "*"), ("OPTIONS", "http://collector.example/"), ("CONNECT", "collector.example:443"), ("GET", "/%ff")],
)
async def test_any_other_target_is_not_found(
    wire: Wire, method: str, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each form of target in RFC 9112, 3.2; none causes an internal error."""
    answer = await wire.ask(head(method=method, target=target))
    assert (404, "Not found", "not_found") == (answer.status, answer.json["message"], answer.reason)
    assert "*" == answer.headers["Access-Control-Allow-Origin"]
    assert not caplog.records


@pytest.mark.parametrize("expected", ["100-continue", "a miracle"])
@pytest.mark.parametrize(("method", "target"), [("OPTIONS", "*"), ("CONNECT", "collector.example:443"), ("GET", "/x")])
async def test_expect_on_any_other_target_is_not_found(wire: Wire, method: str, target: str, expected: str) -> None:
    """aiohttp alone would send a 417 that quotes the value and names its version."""
    answer = await wire.ask(head(f"Expect: {expected}".encode(), method=method, target=target))
    assert (404, "Not found", "collector") == (answer.status, answer.json["message"], answer.headers["Server"])


async def test_absolute_target_is_accepted(collector: Running, wire: Wire) -> None:
    """A client that uses the collector as its proxy sends this."""
    assert 201 == (await wire.ask(request(body(), target=collector.collect_url()))).status


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
async def test_upgrade_is_ignored(collector: Running, wire: Wire, upgrade: bytes) -> None:
    """Java's HTTP client offers h2c with every first POST. Its event is stored and the connection stays open."""
    sent = request(body(), b"Connection: Upgrade", b"Upgrade: " + upgrade)
    assert [201, 201, 201] == [(await wire.ask(data)).status for data in (sent, sent, request(body()))]


async def test_bad_request_behind_an_upgrade_does_not_lose_its_response(
    collector: Running, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """yarl raises IndexError for the target while aiohttp is responding."""
    wire.send(request(body(), b"Connection: Upgrade", b"Upgrade: websocket") + head(target="http://[::1]..@"))
    assert [201, 400] == [(await wire.answer()).status for _ in range(2)]
    assert b"" == await wire.rest()
    assert not caplog.records


@pytest.mark.parametrize("cut", [1, -1])
async def test_request_behind_an_unknown_upgrade_is_read_from_its_start(
    arrivals: Arrivals, collector: Running, wire: Wire, cut: int
) -> None:
    """aiohttp's parser drops bytes behind such a request, so it must get no more than the request."""
    sent = request(body(), b"Connection: Upgrade", b"Upgrade: h2c")
    hidden = request(body(page_title=request(body(), site="hidden").decode()))
    at = hidden.index(b"POST", 1)
    await arrivals.send(wire, sent[:cut], (sent + hidden)[len(sent[:cut]) : len(sent) + at], hidden[at:])
    assert [201, 201] == [(await wire.answer()).status for _ in range(2)]
    assert ({"received": 2, "stored": 2}, {}) == (tally(collector), tally(collector, "(unknown)"))


@pytest.mark.parametrize("sent", [b"PRI / HTTP/1.1\r\n\r\n", b"PRI / HTTP/1.1\r\n\r\n\0\0", head(method="PRI")])
async def test_beginning_of_http_2_in_a_request_of_http_1_1_is_refused_at_once(wire: Wire, sent: bytes) -> None:
    """aiohttp's parser would wait for the rest of it, without end."""
    wire.send(sent)
    wire.send_eof()
    assert (await wire.rest()).startswith(b"HTTP/1.1 400 ")


NO_HTTP = {
    "TLS": TLS_HELLO,
    "words": b"hello\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "target not ASCII": head(target="/\xff"),
    "target for which yarl raises": head(target="http://[::1]..@"),
    "target without a slash": head(target="public/demo/analytics/collect"),
    "star of another method": head(target="*"),
    "long garbage": b"\0" + 40_000 * b"x",
    "garbage that may become HTTP": 40_000 * b"x",
}


@pytest.mark.parametrize("sent", NO_HTTP.values(), ids=NO_HTTP)
async def test_bytes_that_are_not_http_get_a_fixed_400(
    collector: Running, wire: Wire, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing in the response depends on the bytes, CORS included. test_refusal.py tests heads with a request line."""
    answer = await wire.ask(sent)
    assert (400, NOT_HTTP) == (answer.status, answer.body)
    assert not [name for name in answer.headers if name.startswith("Access-Control")]
    assert b"" == await wire.rest()
    assert ({}, {}) == (tally(collector), tally(collector, "(unknown)"))
    assert b"collector_bad_requests_total 1.0" in collector.stages.metrics.snapshot({}, {})()
    assert not caplog.records


@pytest.mark.parametrize("name", [b"Origin", b"Referer", b"User-Agent", b"X-Forwarded-For", b"Content-Type", b"X-Mine"])
@pytest.mark.parametrize("value", [b"\xff\xfe", b"http://\xe9.example", "http://é.example".encode()])
async def test_header_that_is_not_ascii_loses_no_event(
    serve: Serve, connect: Connect, name: bytes, value: bytes
) -> None:
    """Even if the header is used: sent by a trusted proxy, matched against a list of origins, or stored in the row."""
    sites = {"demo": {}, "listed": {"allowed_origins": ["*.example"]}}
    collector = await serve(sites, server={"trusted_proxies": ["127.0.0.1"]})
    wire = await connect(collector)
    assert 201 == (await wire.ask(request(body(), name + b": " + value))).status
    assert (await wire.ask(request(body(), name + b": " + value, site="listed"))).status in (201, 403)
    assert 204 == (await wire.ask(head(name + b": " + value, method="OPTIONS"))).status
    await collector.flush()
    assert 1 == len(collector.rows())


async def test_preflight_for_headers_that_are_not_ascii_allows_content_type(collector: Running, wire: Wire) -> None:
    answer = await wire.ask(head(b"Access-Control-Request-Headers: \xff", method="OPTIONS"))
    assert (204, "Content-Type") == (answer.status, answer.headers["Access-Control-Allow-Headers"])


def fail(*_: object) -> NoReturn:
    raise RuntimeError("SECRET at /etc/collector.toml")


class FaultySites(dict[str, Site]):
    get = fail


class FaultyClock(FakeClock):
    monotonic_ns = fail


@pytest.mark.parametrize("place", ["sites", "clock", "rate limit", "client_ip"])
async def test_internal_error_reveals_nothing(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """The client gets a plain 500, the log gets the exception, and the connection stays open."""
    decider = collector.stages.decider
    rules = decider.rules
    with monkeypatch.context() as broken:
        match place:
            case "sites":
                broken.setattr(decider, "rules", replace(rules, sites=FaultySites()))
            case "clock":
                broken.setattr(collector.clock, "now_us", fail)
            case "rate limit":
                buckets = TokenBuckets(rules.buckets.limit, FaultyClock())
                broken.setattr(decider, "rules", replace(rules, buckets=buckets))
            case "client_ip":
                broken.setattr(decider, "rules", replace(rules, client_ip=fail))
        answer = await wire.ask(request(body(), ORIGIN))
    expected = {"message": "Internal error", "errors": [{"message": "Internal error", "code": "INTERNAL_ERROR"}]}
    assert (500, "internal", expected) == (answer.status, answer.reason, answer.json)
    assert "https://shop.example" == answer.headers["Access-Control-Allow-Origin"]
    assert "SECRET" not in f"{answer.body!r} {answer.headers}"
    assert "SECRET" in caplog.text
    assert {"received": 1, "internal": 1} == tally(collector, "(unknown)" if place == "sites" else "demo")
    assert 0 == collector.stages.decider.in_flight.count
    assert 201 == (await wire.ask(request(body()))).status


@pytest.mark.parametrize(
    ("place", "site"), [("to_request", "(unknown)"), ("fault_of", "(unknown)"), ("read_body", "demo")]
)
async def test_internal_error_on_the_standard_path_reveals_nothing(
    collector: Running,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    site: str,
) -> None:
    """aiohttp's own error page would name its version, and would not be counted."""

    def fail(*_: object) -> None:
        raise RuntimeError("SECRET")

    monkeypatch.setattr(f"collector.edge.standard_path.{place}", fail)
    answer = await wire.ask(head(CHUNKED) + chunk(body()) + LAST_CHUNK)
    assert (500, "internal", "collector") == (answer.status, answer.reason, answer.headers["Server"])
    assert "SECRET" not in f"{answer.body!r} {answer.headers}"
    assert 1 == caplog.text.count("Traceback")
    assert {"received": 1, "internal": 1} == tally(collector, site)
    assert 0 == collector.stages.decider.in_flight.count


async def test_draining_collector_responds_and_closes(collector: Running, connect: Connect) -> None:
    """Events on open connections are still stored. The response is 503 only once the journal is closed."""
    first, second = await connect(collector), await connect(collector)
    assert 201 == (await first.ask(request(body()))).status
    collector.stages.decider.in_flight.draining = True
    answer = await first.ask(request(body()))
    assert (201, "close") == (answer.status, answer.headers["Connection"])
    assert b"" == await first.rest()
    await collector.stages.journal.close()
    answer = await second.ask(request(body()))
    assert (503, "close") == (answer.status, answer.headers["Connection"])
    assert {"received": 3, "stored": 2, "unavailable": 1} == tally(collector)


async def test_request_is_in_flight_until_its_response(collector: Running, wire: Wire) -> None:
    """A drain waits for requests whose body is still arriving."""
    wire.send(head(LENGTH))
    await until(lambda: collector.stages.decider.in_flight.count)
    wire.send(body())
    await soon(collector.stages.decider.in_flight.none())
    assert 0 == collector.stages.decider.in_flight.count
    assert 201 == (await wire.answer()).status


async def test_pipelined_bodies_do_not_mix(collector: Running, wire: Wire) -> None:
    """Bodies of several lengths arrive together."""
    titles = ["x" * n for n in (1, 400, 0, 30)]
    for title in titles:
        wire.send(request(body(page_title=title)))
    assert [201] * 4 == [(await wire.answer()).status for _ in titles]
    await collector.flush()
    assert titles == [row["page_title"] for row in collector.rows()]
    assert event()["session_id"] == collector.rows()[0]["session_id"]
