"""CORS: pages on any origin can read every response, and a browser sends one preflight a day."""

from dataclasses import replace

import pytest

from tests.edge.conftest import Connect, Serve
from tests.edge.faults import ANSWERS, FAULTS, collector_with, faulty
from tests.edge.wire import Answer, Wire, chunk, head, request, tally
from tests.support import Running, body

SHOP = "https://shop.example"
ORIGIN = b"Origin: https://shop.example"
CHUNKED = b"Transfer-Encoding: chunked"
LATE = head(ORIGIN, b"Content-Length: 9")


def cors(answer: Answer) -> dict[str, str]:
    """The CORS headers of a response. Fails if one occurs twice."""
    found = [(name, value) for name, value in answer.headers.items() if name.startswith("Access-Control")]
    assert len(dict(found)) == len(found)
    return dict(found)


def readable_by(origin: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": "Collect-Reason, Retry-After",
    }


@pytest.mark.parametrize("fault", FAULTS)
async def test_page_can_read_the_response_to_every_disposition(serve: Serve, connect: Connect, fault: str) -> None:
    """Even when the origin is refused or ignored: a developer who integrates a site must see why."""
    sent = faulty(fault)
    wire = await connect(await collector_with(serve, fault))
    answer = await wire.ask(sent.whole)
    assert ANSWERS[fault][0] == answer.status
    assert (readable_by(sent.origin), "Origin") == (cors(answer), answer.headers["Vary"])


ANSWERED = {
    "stored": (201, request(body(), ORIGIN)),
    "other path": (404, head(ORIGIN, target="/nothing/here")),
    "favicon": (404, head(ORIGIN, method="GET", target="/favicon.ico")),
    "other method": (405, head(ORIGIN, method="DELETE")),
    "HEAD": (405, head(ORIGIN, method="HEAD")),
    "HTTP/1.0": (201, request(body(), ORIGIN, version="1.0")),
    "late": (408, LATE),
    "declared too large": (413, head(ORIGIN, b"Content-Length: 999999999")),
    "strict": (422, request(b"{", ORIGIN, site="strict")),
}


@pytest.mark.parametrize(("status", "sent"), ANSWERED.values(), ids=ANSWERED)
async def test_page_can_read_every_other_response(serve: Serve, connect: Connect, status: int, sent: bytes) -> None:
    sites = {"demo": {}, "strict": {"strict": True}}
    wire = await connect(await serve(sites, server={"body_timeout_s": 0.3}))
    answer = await wire.ask(sent)
    assert (status, readable_by(SHOP), "Origin") == (answer.status, cors(answer), answer.headers["Vary"])


async def test_page_can_read_a_413_to_chunks(serve: Serve, connect: Connect) -> None:
    wire = await connect(await serve(server={"max_body_bytes": 9}))
    answer = await wire.ask(head(ORIGIN, CHUNKED) + chunk(bytes(10)))
    assert (413, readable_by(SHOP)) == (answer.status, cors(answer))


async def test_page_can_read_a_500(collector: Running, wire: Wire) -> None:
    decider = collector.stages.decider
    decider.rules = replace(decider.rules, client_ip=lambda *_: str(1 / 0))
    answer = await wire.ask(request(body(), ORIGIN))
    assert (500, readable_by(SHOP)) == (answer.status, cors(answer))


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (b"X: no origin", "*"),
        (b"Origin:", "*"),
        (b"Origin: null", "null"),
        (b"Origin: http://shop.example:8080", "http://shop.example:8080"),
        (b"Origin: HTTPS://Shop.Example", "HTTPS://Shop.Example"),
        (b"Origin: \xff", "*"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS"])
async def test_origin_is_echoed_unchanged(wire: Wire, method: str, line: bytes, allowed: str) -> None:
    """`null` (a sandboxed frame) is an origin like any other. One that is not ASCII counts as missing."""
    answer = await wire.ask(request(body() if method == "POST" else b"", line, method=method))
    assert allowed == cors(answer)["Access-Control-Allow-Origin"]
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("site", ["demo", "nobody", "%FF", "off"])
async def test_preflight_succeeds_for_every_site_and_lasts_a_day(serve: Serve, connect: Connect, site: str) -> None:
    """Even for unknown sites: the 404 to the POST explains more than a failed preflight."""
    collector = await serve({"demo": {"allowed_origins": ["https://other.example"]}, "off": {"tracking": False}})
    wire = await connect(collector)
    asked = (b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: content-type, x-mine")
    answer = await wire.ask(head(ORIGIN, *asked, method="OPTIONS", site=site))
    expected = readable_by(SHOP) | {
        "Access-Control-Allow-Methods": "POST, OPTIONS",
        "Access-Control-Allow-Headers": "content-type, x-mine",
        "Access-Control-Max-Age": "86400",
    }
    assert (204, b"", expected) == (answer.status, answer.body, cors(answer))
    assert {"Origin", "Access-Control-Request-Headers"} == {*answer.headers["Vary"].split(", ")}
    assert not {"Content-Length", "Collect-Reason"} & answer.headers.keys()
    assert ({}, {}) == (tally(collector, site), tally(collector, "(unknown)"))


async def test_preflight_that_requests_no_headers_allows_content_type(wire: Wire) -> None:
    answer = await wire.ask(head(ORIGIN, method="OPTIONS"))
    assert "Content-Type" == cors(answer)["Access-Control-Allow-Headers"]


async def test_preflight_costs_no_token(serve: Serve, connect: Connect) -> None:
    """Nor do refusals by checks before the rate limit: the only token is left for the event."""
    wire = await connect(await serve(rate_limit={"burst": 1, "requests_per_minute": 1}))
    free = [head(method="OPTIONS"), head(method="PUT"), head(target="/"), request(b"", site="nobody")]
    assert [204, 405, 404, 404] * 3 == [(await wire.ask(sent)).status for sent in free * 3]
    assert [201, 429] == [(await wire.ask(request(body()))).status for _ in range(2)]
    assert 204 == (await wire.ask(head(method="OPTIONS"))).status
