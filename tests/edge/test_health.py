"""The public port's `/healthz` for load balancers: 200 while the collector accepts events."""

import pytest

from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Wire, head, request, tally
from tests.support import Running, body

PATH = "/healthz"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_collector_that_accepts_events_is_healthy(
    collector: Running, wire: Wire, method: str, version: str
) -> None:
    """The response has no details, and the check is not counted as an event."""
    answer = await wire.ask(head(b"Connection: keep-alive", method=method, target=PATH, version=version))
    assert (200, b"ok" if method == "GET" else b"") == (answer.status, answer.body)
    assert {"Server": "collector", "Content-Type": "text/plain; charset=utf-8", "Content-Length": "2"} == {
        name: value for name, value in answer.headers.items() if name not in ("Date", "Connection")
    }
    assert 201 == (await wire.ask(request(body()))).status
    assert ({"received": 1, "stored": 1}, {}) == (tally(collector), tally(collector, "(unknown)"))


async def test_check_over_http_1_0_without_a_host_succeeds(wire: Wire) -> None:
    """Balancers that are configured with a path only send this."""
    wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert 200 == (await wire.answer()).status
    assert b"" == await wire.rest()


@pytest.mark.parametrize("cause", ["disk low", "journal closed", "draining"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_collector_that_accepts_no_events_is_not_healthy(
    collector: Running, wire: Wire, cause: str, method: str
) -> None:
    """The response does not give the reason; `/readyz` on the admin port does."""
    match cause:
        case "disk low":
            collector.stages.journal.blocked_reason = "disk space is low"
        case "journal closed":
            await collector.stages.journal.close()
        case "draining":
            collector.stages.decider.in_flight.draining = True
    answer = await wire.ask(head(method=method, target=PATH))
    assert (503, b"unavailable" if method == "GET" else b"") == (answer.status, answer.body)
    assert {} == tally(collector, "(unknown)")


async def test_collector_is_healthy_again_when_space_returns(collector: Running, wire: Wire) -> None:
    statuses = []
    for low in (False, True, False):
        collector.stages.journal.blocked_reason = "disk space is low" if low else None
        statuses.append((await wire.ask(head(method="GET", target=PATH))).status)
    assert [200, 503, 200] == statuses


async def test_health_check_costs_no_token(serve: Serve, connect: Connect) -> None:
    wire = await connect(await serve(rate_limit={"burst": 1, "requests_per_minute": 1}))
    asked = head(method="GET", target=PATH)
    assert [200, 200, 200] == [(await wire.ask(asked)).status for _ in range(3)]
    assert [201, 429, 200] == [(await wire.ask(sent)).status for sent in (request(body()), request(body()), asked)]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused_and_counted(collector: Running, wire: Wire, method: str) -> None:
    """An event sent to this path has the wrong URL."""
    answer = await wire.ask(request(body(), method=method, target=PATH))
    assert (405, "GET, HEAD", "method") == (answer.status, answer.headers["Allow"], answer.reason)
    assert "Method not allowed" == answer.json["message"]
    assert {"received": 1, "method": 1} == tally(collector, "(unknown)")


@pytest.mark.parametrize("target", ["/healthz/", "/healthz/x", "/health", "/Healthz", "/public/healthz", "/readyz"])
async def test_similar_paths_are_not_found(wire: Wire, target: str) -> None:
    answer = await wire.ask(head(method="GET", target=target))
    assert (404, "not_found") == (answer.status, answer.reason)


async def test_query_is_ignored(wire: Wire) -> None:
    assert 200 == (await wire.ask(head(method="GET", target="/healthz?from=balancer"))).status
