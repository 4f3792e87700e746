"""The admin application: liveness, readiness, metrics, version and OpenAPI."""

import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from collector import VERSION
from collector.build import CODE, COMMIT
from collector.config import SITE_ID
from collector.edge.ops import build_admin
from collector.events import CONTRACT, CONTRACT_HASH, FIELDS
from tests.edge.conftest import Serve
from tests.edge.faults import ANSWERS
from tests.edge.wire import per_site
from tests.support import Running, event

Admin = TestClient[Any, Any]


@pytest.fixture
async def admin(collector: Running) -> AsyncIterator[Admin]:
    """The admin application of `collector`."""
    async with TestClient(TestServer(build_admin(collector.stages))) as client:
        yield client


async def page(collector: Running) -> str:
    """The metrics page that Prometheus scrapes."""
    async with (
        TestClient(TestServer(build_admin(collector.stages))) as client,
        client.get("/metrics") as response,
    ):
        assert (200, "text/plain; version=0.0.4; charset=utf-8") == (response.status, response.headers["Content-Type"])
        return await response.text()


async def read(admin: Admin, path: str) -> tuple[int, str]:
    response = await admin.get(path)
    return response.status, await response.text()


async def test_ready_collector_is_alive_and_ready(admin: Admin) -> None:
    assert (200, "alive\n") == await read(admin, "/healthz")
    assert (200, "ready\n") == await read(admin, "/readyz")


@pytest.mark.parametrize(
    ("cause", "why"),
    [("disk", "disk space is low"), ("full", "the journal is full"), ("closed", "draining")],
)
async def test_collector_that_cannot_store_is_alive_and_not_ready(serve: Serve, cause: str, why: str) -> None:
    """It refuses events at the same time, so a balancer that checks /readyz must send them elsewhere."""
    collector = await serve(storage={"segment_max_bytes": 65536, "journal_max_bytes": 65536})
    match cause:
        case "disk":
            collector.stages.journal.blocked_reason = "disk space is low"
        case "full":
            while (await collector.post(event(page_title="x" * 500))).status == 201:
                pass
        case "closed":
            await collector.stages.journal.close()
    async with TestClient(TestServer(build_admin(collector.stages))) as admin:
        assert (503, f"not ready: {why}\n") == await read(admin, "/readyz")
        assert 200 == (await read(admin, "/healthz"))[0]
        assert "collector_ready 0.0" in (await read(admin, "/metrics"))[1]
    assert 503 == (await collector.post(event())).status


async def test_collector_is_ready_again_when_space_returns(collector: Running, admin: Admin) -> None:
    statuses = []
    for low in (True, False):
        collector.stages.journal.blocked_reason = "disk space is low" if low else None
        statuses.append((await read(admin, "/readyz"))[0])
    assert [503, 200] == statuses


async def test_page_accounts_for_every_event_of_every_site(serve: Serve) -> None:
    """received = stored + dropped. All requests without a known site share one label."""
    collector = await serve({"demo": {"excluded_paths": ["/x"]}, "off": {"tracking": False}, "quiet": {}})
    for site in ("demo", "off", "nobody", "somebody"):
        for data in (event(), event(page_path="/x"), {}):
            await collector.post(data, site)
    async with collector.client.put(collector.collect_url()), collector.client.post(collector.url + "/collect"):
        pass
    counts = per_site(await page(collector))
    assert {
        "demo": {"received": 3, "stored": 1, "excluded_path": 1, "invalid": 1},
        "off": {"received": 3, "tracking_disabled": 3},
        "(unknown)": {"received": 8, "unknown_site": 6, "method": 1, "not_found": 1},
    } == counts
    for count in counts.values():
        assert count.pop("received") == sum(count.values())


async def test_page_counts_buffered_and_published_events(collector: Running) -> None:
    async def numbers() -> dict[str, float]:
        families = text_string_to_metric_families(await page(collector))
        return {sample.name: sample.value for family in families for sample in family.samples}

    for data in (event(), event(), {}):
        await collector.post(data)
    before = await numbers()
    await collector.flush()
    after = await numbers()
    published = [
        "collector_buffered_events",
        "collector_published_events_total",
        "collector_parts_total",
        "collector_rejected_kept_events_total",
    ]
    assert ([2, 0, 0, 0], [0, 2, 1, 1]) == tuple([page[name] for name in published] for page in (before, after))
    assert before["collector_buffered_bytes"] > 0 == after["collector_buffered_bytes"]
    assert (1, 1) == (after["collector_rate_limit_clients"], after["collector_ready"])


async def test_snapshot_is_of_one_moment(collector: Running) -> None:
    """A thread renders it. Events counted meanwhile appear on the next page only."""
    await collector.post(event())
    render = collector.stages.metrics.snapshot({}, {})
    for data in (event(), {}):
        await collector.post(data)
    assert {"demo": {"received": 1, "stored": 1}} == per_site(render().decode())
    assert {"demo": {"received": 3, "stored": 2, "invalid": 1}} == per_site(await page(collector))


async def test_page_renders_in_a_thread(collector: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of series take 0.25 s to render, and events must not wait for that."""
    threads = []

    def spy(registry: CollectorRegistry) -> bytes:
        threads.append(threading.current_thread())
        return generate_latest(registry)

    monkeypatch.setattr("collector.metrics.generate_latest", spy)
    await page(collector)
    assert threads
    assert threading.current_thread() not in threads


async def test_number_of_series_is_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites beyond the bound share one label, and the sums include all their events."""
    monkeypatch.setattr("collector.site_counts.MAX_LABELLED_SITES", 3)
    collector = await serve({f"site-{n}": {} for n in range(8)}, rate_limit={"requests_per_minute": 0})
    for n in range(8):
        for data in (event(), {}):
            await collector.post(data, f"site-{n}")
            await collector.post(data, f"unknown-{n}")
    text = await page(collector)
    assert {
        **{f"site-{n}": {"received": 2, "stored": 1, "invalid": 1} for n in range(3)},
        "(other)": {"received": 10, "stored": 5, "invalid": 5},
        "(unknown)": {"received": 16, "unknown_site": 16},
    } == per_site(text)
    assert 'collector_buffered_events{site="(other)"} 5.0' in text


async def test_version_names_the_code_and_the_contract(admin: Admin) -> None:
    response = await admin.get("/version")
    assert {"version": VERSION, "commit": COMMIT, "contract": CONTRACT_HASH, "code": CODE} == await response.json()


@pytest.mark.parametrize("path", ["/", "/public/demo/analytics/collect", "/metrics/"])
async def test_admin_serves_nothing_else(admin: Admin, path: str) -> None:
    assert 404 == (await read(admin, path))[0]


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/version", "/openapi.json"])
async def test_public_port_serves_no_admin_page(collector: Running, path: str) -> None:
    """It has its own `/healthz` (test_health.py)."""
    async with collector.client.get(collector.url + path) as response:
        assert 404 == response.status


class TestOpenApi:
    """The OpenAPI document is made from the contract and describes the real responses."""

    @pytest.fixture
    async def document(self, admin: Admin) -> dict[str, Any]:
        response = await admin.get("/openapi.json")
        assert "application/json" == response.content_type
        document: dict[str, Any] = await response.json()
        return document

    async def test_event_is_the_contract(self, document: dict[str, Any]) -> None:
        schema = document["components"]["schemas"]["Event"]
        assert CONTRACT["properties"] == schema["properties"]
        assert CONTRACT["required"] == schema["required"]
        assert len(FIELDS) == len(schema["properties"])

    async def test_fields_of_senders_with_a_key_are_described(self, document: dict[str, Any]) -> None:
        event, own = document["components"]["schemas"]["SenderEvent"]["allOf"]
        assert {"$ref": "#/components/schemas/Event"} == event
        types = {name: field["type"] for name, field in own["properties"].items()}
        assert {name: ["string", "null"] for name in ("received_at", "client_ip", "user_agent")} == types
        assert own["properties"].keys().isdisjoint(CONTRACT["properties"])

    async def test_every_operation_names_gzip_and_the_events_of_senders(self, document: dict[str, Any]) -> None:
        """A parameter could not say it: clients set this header themselves."""
        described = [path["post"]["description"] for path in document["paths"].values() if "post" in path]
        assert 3 == len(described)
        for text in described:
            assert "`Content-Encoding: gzip` is accepted" in text
            assert "`SenderEvent`" in text

    async def test_pixel_has_the_fields_as_parameters(self, document: dict[str, Any]) -> None:
        operations = document["paths"]["/public/{siteId}/p.gif"]
        assert {"get", "head"} == operations.keys()
        for operation in operations.values():
            site, *fields = operation["parameters"]
            assert ("siteId", "path") == (site["name"], site["in"])
            assert [field.name for field in FIELDS] == [field["name"] for field in fields]
            assert {("query", False)} == {(field["in"], field["required"]) for field in fields}
            assert {"image/gif"} == operation["responses"]["200"]["content"].keys()

    async def test_every_status_is_described(self, document: dict[str, Any]) -> None:
        """405 does not belong under `post`. The statuses added below come from no fault in `FAULTS`."""
        met = {str(status) for status, _, _ in ANSWERS.values()} - {"405"}
        for path in ("/public/{siteId}/analytics/collect", "/public/{siteId}/e", "/public/{siteId}/batch"):
            described = document["paths"][path]["post"]["responses"]
            assert met | {"201", "400", "401", "408", "422", "431", "500"} == described.keys()

    async def test_plain_texts_are_described(self, document: dict[str, Any]) -> None:
        """A request that is not HTTP gets the one, and a head that is late the other."""
        described = document["paths"]["/public/{siteId}/analytics/collect"]["post"]["responses"]
        texts = {status: each["content"].get("text/plain") for status, each in described.items()}
        assert {"400": {"schema": {"const": "Bad request\n"}}, "408": {"schema": {"const": "Request timeout\n"}}} == {
            status: text for status, text in texts.items() if text is not None
        }

    async def test_headers_are_described_where_they_are_sent(self, document: dict[str, Any]) -> None:
        described = document["paths"]["/public/{siteId}/analytics/collect"]["post"]["responses"]
        assert {"Collect-Reason", "Retry-After"} <= described["429"]["headers"].keys()
        assert {"Collect-Reason", "Retry-After"} <= described["503"]["headers"].keys()
        assert {"Collect-Reason", "Accept-Encoding"} == described["415"]["headers"].keys()

    async def test_site_id_has_the_pattern_of_the_configuration(self, document: dict[str, Any]) -> None:
        (site,) = document["paths"]["/public/{siteId}/analytics/collect"]["post"]["parameters"]
        assert ("siteId", "path", True) == (site["name"], site["in"], site["required"])
        assert f"^{SITE_ID.pattern}$" == site["schema"]["pattern"]

    async def test_references_resolve(self, document: dict[str, Any]) -> None:
        waiting: list[Any] = [document]
        found = 0
        while waiting:
            node = waiting.pop()
            values = [*node.values()] if isinstance(node, dict) else node
            waiting += [value for value in values if isinstance(value, dict | list)]
            if isinstance(node, dict) and "$ref" in node:
                target: Any = document
                for step in node["$ref"].removeprefix("#/").split("/"):
                    target = target[step]
                found += 1
        assert found >= 10

    async def test_real_error_has_the_described_shape(self, document: dict[str, Any], collector: Running) -> None:
        shape = document["components"]["schemas"]["Error"]
        response = await collector.post(event(), "nobody")
        answer = await response.json()
        assert shape["required"] == [*answer]
        (error,) = answer["errors"]
        assert {*shape["properties"]["errors"]["items"]["required"]} == error.keys()
