"""The collect endpoint as clients see it: status, message, headers and counts."""

import json
from typing import Any

import pytest

from collector.clock import US_PER_DAY
from tests.edge.conftest import Connect, Serve
from tests.edge.faults import ANSWERS, FAULTS, NEED_THE_BODY, collector_with, faulty
from tests.edge.wire import Wire, head, request, tally
from tests.support import Running, body, event

CURL_EXAMPLE = b'{ "event": "page_view", "path": "/pricing" }'
RECEIVED = {"message": "Event received"}

# Headers that only the responses with this status have.
EXTRA_HEADERS = {
    405: {"Allow": "POST, OPTIONS"},
    413: {"Connection": "close"},
    415: {"Accept-Encoding": "gzip"},
    429: {"Retry-After": "60", "RateLimit-Limit": "1", "RateLimit-Remaining": "0", "RateLimit-Reset": "60"},
    503: {"Retry-After": "5"},
}
CODES = {
    403: "FORBIDDEN",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_ENCODING",
    429: "RATE_LIMITED",
    503: "SERVICE_UNAVAILABLE",
}
MAY_HAVE = {name for headers in EXTRA_HEADERS.values() for name in headers} | {"Collect-Reason"}


def expected_body(status: int, message: str) -> dict[str, Any]:
    if status < 300:
        return {"message": message}
    return {"message": message, "errors": [{"message": message, "code": CODES[status]}]}


@pytest.fixture
async def strict(serve: Serve) -> Running:
    return await serve({"demo": {"strict": True}})


async def test_stored_event_is_a_row(collector: Running) -> None:
    response = await collector.post(event(lcp=12))
    assert (201, RECEIVED) == (response.status, await response.json())
    assert not MAY_HAVE & response.headers.keys()
    assert {"received": 1, "stored": 1} == tally(collector)
    await collector.flush()
    assert [12.0] == [row["lcp"] for row in collector.rows()]


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_disposition_has_its_response(serve: Serve, connect: Connect, fault: str) -> None:
    """Status, exact body, headers and counts."""
    status, reason, message = ANSWERS[fault]
    sent = faulty(fault)
    collector = await collector_with(serve, fault)
    wire = await connect(collector)
    answer = await wire.ask(sent.whole)
    assert (status, expected_body(status, message)) == (answer.status, answer.json)
    extra = {name: answer.headers[name] for name in MAY_HAVE if name in answer.headers}
    assert {"Collect-Reason": reason} | EXTRA_HEADERS.get(status, {}) == extra
    assert {"received": 1, reason: 1} == tally(collector, sent.counted_for)
    assert collector.stages.journal.unpublished_rows == 0


@pytest.mark.parametrize("first", FAULTS)
async def test_first_failing_check_decides_the_response(serve: Serve, connect: Connect, first: str) -> None:
    """The request also has every later fault, so fixing one after another meets them all in order."""
    faults = FAULTS[FAULTS.index(first) :]
    sent = faulty(*faults)
    collector = await collector_with(serve, *faults)
    wire = await connect(collector)
    answer = await wire.ask(sent.whole)
    assert ANSWERS[first] == (answer.status, answer.reason, answer.json["message"])


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in NEED_THE_BODY])
async def test_response_that_needs_no_body_does_not_wait_for_it(serve: Serve, connect: Connect, fault: str) -> None:
    """The body never arrives; waiting for it would end in a 408."""
    status, *_ = ANSWERS[fault]
    collector = await collector_with(serve, fault)
    wire = await connect(collector)
    assert status == (await wire.ask(faulty(fault).head)).status


async def test_request_without_faults_passes_every_check(serve: Serve, connect: Connect) -> None:
    """Otherwise the helpers themselves could cause the refusals above."""
    sent = faulty()
    collector = await collector_with(serve)
    wire = await connect(collector)
    assert 201 == (await wire.ask(sent.whole)).status


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "TRACE"])
async def test_other_methods_are_refused_even_for_unknown_sites(collector: Running, wire: Wire, method: str) -> None:
    answer = await wire.ask(head(method=method, site="nobody"))
    assert (405, "POST, OPTIONS", "method") == (answer.status, answer.headers["Allow"], answer.reason)
    assert {"received": 1, "method": 1} == tally(collector, "(unknown)")


@pytest.mark.parametrize("site", ["nobody", "Demo", "a" * 65, "d.e", "a%2Fb", "%FF", "{siteId}", "%7BsiteId%7D", "%20"])
async def test_unknown_and_malformed_site_ids_get_the_same_response(collector: Running, wire: Wire, site: str) -> None:
    """`{siteId}` is what the contract's example sends when copied verbatim."""
    answer = await wire.ask(request(body(), site=site))
    assert (404, "unknown_site") == (answer.status, answer.reason)
    assert expected_body(404, "Site not found") == answer.json
    assert {"received": 1, "unknown_site": 1} == tally(collector, "(unknown)")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//",
        "/demo/analytics/collect",
        "/public/demo/analytics",
        "/public/demo/x/collect",
        "/public/demo/analytics/collect//",
        "/public/demo/analytics/collect/x",
        "/public/demo/analytics/collect%2F",
        "/public/demo/analytics//collect",
        "/public/demo/analytics/Collect",
        "//public/demo/analytics/collect",
        "/public/a/b/analytics/collect",
        "/public/analytics/collect",
        "/x?/public/demo/analytics/collect",
        "/e",
        "/public/demo/e//",
        "/public/demo/e/x",
        "/public/demo/e%2F",
        "/public/demo/%65",
        "/public/demo/E",
        "/public/demo/ee",
        "/public/demo/analytics/e",
        "/public/a/b/e",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
async def test_other_paths_are_not_found_and_counted(collector: Running, wire: Wire, method: str, target: str) -> None:
    """Operators must be able to see that a page sends to a wrong path."""
    if target == "*" and method != "OPTIONS":
        return  # RFC 9112, 3.2.4: `*` is for OPTIONS only
    answer = await wire.ask(request(body(), method=method, target=target))
    assert (404, expected_body(404, "Not found"), "not_found") == (answer.status, answer.json, answer.reason)
    assert ({}, {"received": 1, "not_found": 1}) == (tally(collector), tally(collector, "(unknown)"))


@pytest.mark.parametrize(
    "target",
    [
        f"/public/{site}/{end}"
        for end in ("analytics/collect", "e")
        for site, end in (
            ("demo", end),
            ("demo", f"{end}/"),
            ("demo", f"{end}?t=1"),
            ("demo", f"{end}/?t=1"),
            ("demo", f"{end}?"),
            ("d%65mo", end),
            ("d%65mo", f"{end}/"),
        )
    ],
)
async def test_trailing_slash_query_and_escapes_lead_to_the_same_path(
    collector: Running, wire: Wire, target: str
) -> None:
    assert 201 == (await wire.ask(request(body(), target=target))).status
    assert 204 == (await wire.ask(head(method="OPTIONS", target=target))).status
    assert 405 == (await wire.ask(head(method="GET", target=target))).status
    assert {"received": 1, "stored": 1} == tally(collector)
    answer = await wire.ask(request(body(), target=target.replace("d%65mo", "demo").replace("demo", "nobody")))
    assert (404, "unknown_site") == (answer.status, answer.reason)


@pytest.mark.parametrize("cause", ["disk low", "buffers full", "journal closed", "no key of the day"])
async def test_collector_that_cannot_store_refuses(serve: Serve, cause: str) -> None:
    """For each cause the response is the same, and only acknowledged events are stored."""
    least = {"segment_max_bytes": 65536, "journal_max_bytes": 65536}
    collector = await serve(storage=least, privacy={"client_ip": "hash"})
    match cause:
        case "disk low":
            collector.stages.journal.blocked_reason = "disk space is low"
        case "buffers full":
            while collector.stages.journal.can_append():
                assert 201 == (await collector.post(event(page_title="x" * 500))).status
        case "journal closed":
            await collector.stages.journal.close()
        case "no key of the day":
            collector.clock.us += 3 * US_PER_DAY  # the thread that makes keys has not noticed the jump yet
    stored = collector.stages.journal.unpublished_rows
    response = await collector.post(event())
    assert (503, "5") == (response.status, response.headers["Retry-After"])
    assert expected_body(503, "Collector temporarily unavailable") == await response.json()
    assert stored == collector.stages.journal.unpublished_rows == tally(collector).get("stored", 0)


async def test_service_resumes_when_space_returns(collector: Running) -> None:
    statuses = []
    for low in (False, True, False):
        collector.stages.journal.blocked_reason = "disk space is low" if low else None
        statuses.append((await collector.post(event())).status)
    assert [201, 503, 201] == statuses


CONTENT_TYPES = [
    "application/json",
    "application/json; charset=latin-1",
    "text/plain;charset=UTF-8",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "image/png",
    "no type at all",
    "",
]


@pytest.mark.parametrize("content_type", [*CONTENT_TYPES, None])
async def test_any_content_type_is_read_as_json(wire: Wire, content_type: str | None) -> None:
    """A beacon sends text/plain for a string, and the Blob's own type, or none, for a Blob."""
    lines = [] if content_type is None else [f"Content-Type: {content_type}".encode()]
    assert 201 == (await wire.ask(request(body(), *lines))).status


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbf" + body(), "Event received"),
        (b" \r\n" + body() + b"\n", "Event received"),
        (b"", "Validation error: body is not one JSON object"),
        (b"[" + body() + b"]", "Validation error: body is not one JSON object"),
        (body() + body(), "Validation error: body is not one JSON object"),
        (b'"' + b"x" * 99 + b'"', "Validation error: body is not one JSON object"),
        (body(page_title="x")[:-2] + b'\xff"}', "Validation error: body is not UTF-8"),
        (body()[:-1] + b', "mine": [{"n": NaN}]}', None),
        (body()[:-1] + b', "mine": 1e999}', "Event received"),
        (body()[:-1] + b', "lcp": 1e999}', None),
        (body(lcp="fast"), "Validation error: lcp must be a number or null"),
        (body(visitor_id="short"), "Validation error: visitor_id must have at least 8 characters"),
    ],
)
async def test_body_must_be_valid_json(collector: Running, data: bytes, message: str | None) -> None:
    """One body of each kind; tests/ingest has the full table. `message` None: any message will do."""
    async with collector.client.post(collector.collect_url(), data=data) as response:
        answer = await response.json()
    stored = message == "Event received"
    assert (201 if stored else 202, ["message"]) == (response.status, [*answer])
    assert message in (None, answer["message"])
    assert (None if stored else "invalid") == response.headers.get("Collect-Reason")


async def test_example_of_the_contract_gets_a_list_of_missing_fields(collector: Running) -> None:
    """The contract's curl example lacks fields that the contract requires; the message names them all."""
    async with collector.client.post(collector.collect_url(), data=CURL_EXAMPLE) as response:
        message = (await response.json())["message"]
    assert (202, "invalid") == (response.status, response.headers["Collect-Reason"])
    assert message.startswith("Validation error: session_id is required")
    assert {"visitor_id", "event_type", "page_path", "event_time"} <= {*message.replace(",", " ").strip(")").split()}
    assert len(message) < 200


@pytest.mark.parametrize(
    "change",
    [
        {"event_type": "MARK"},
        {"lcp": "MARK"},
        {"is_entry": "MARK"},
        {"page_title": "MARK" * 200},
        {"traffic_source": "MARK"},
        {"page_path": {"MARK": "MARK"}},
        {"visitor_id": "MARK"},
        {"MARK" * 100: 1, "session_id": None},
    ],
)
@pytest.mark.parametrize("site", ["beacon", "strict"])
async def test_response_never_echoes_the_request(serve: Serve, change: dict[str, Any], site: str) -> None:
    sites: dict[str, dict[str, Any]] = {"beacon": {}, "strict": {"strict": True}}
    collector = await serve(sites)
    response = await collector.post(event(**change), site)
    assert {"beacon": 202, "strict": 422}[site] == response.status
    text = await response.text()
    assert "MARK" not in text
    assert len(json.loads(text)["message"]) < 200


async def test_strict_site_gets_every_error(strict: Running) -> None:
    response = await strict.post({"event": "page_view", "visitor_id": "short", "lcp": "fast", "event_time": 7})
    answer = await response.json()
    assert (422, "invalid") == (response.status, response.headers["Collect-Reason"])
    broken = {
        "session_id": "is required",
        "event_type": "is required",
        "page_path": "is required",
        "visitor_id": "must have at least 8 characters",
        "lcp": "must be a number or null",
        "event_time": "must be a string",
    }
    expected = {
        field: {"message": f"Validation error: {field} {rule}", "code": "VALIDATION_ERROR", "field": field}
        for field, rule in broken.items()
    }
    assert expected == {error["field"]: error for error in answer["errors"]}
    assert len(expected) == len(answer["errors"])
    assert answer["errors"][0]["message"] == answer["message"]
    assert {"received": 1, "invalid": 1} == tally(strict)


async def test_strict_error_about_the_entire_body_names_no_field(strict: Running) -> None:
    response = await strict.post(b"{")
    message = "Validation error: body is not one JSON object"
    expected = {"message": message, "errors": [{"message": message, "code": "VALIDATION_ERROR"}]}
    assert (422, expected) == (response.status, await response.json())


async def test_strict_site_still_ignores_excluded_pages(serve: Serve) -> None:
    """`strict` affects schema errors only; an excluded page still gets a 202."""
    sites = {"demo": {"strict": True, "excluded_paths": ["/pricing"]}}
    collector = await serve(sites)
    assert 202 == (await collector.post(event())).status


APPS = {
    "apps": {"allowed_origins": ["capacitor://localhost", "https://localhost", "http://[::1]:3000"]},
    "demo": {"allowed_origins": ["https://shop.example"]},
    "open": {},
}


@pytest.mark.parametrize(
    ("statuses", "lines"),
    [
        # From a site that lists the origin, from one that lists others, and from one that lists none.
        ((201, 202, 202), (b"Origin: capacitor://localhost",)),
        ((201, 202, 202), (b"Origin: HTTPS://localhost",)),
        ((201, 202, 202), (b"Origin: http://[::1]:3000",)),
        ((202, 202, 202), (b"Origin: http://localhost",)),
        ((202, 202, 202), (b"Origin: http://localhost", b"Referer: https://localhost/")),
        ((201, 202, 202), (b"Referer: https://localhost/page?x=1",)),
        ((202, 202, 202), (b"Referer: http://localhost/page?x=1",)),
        ((403, 201, 201), (b"Origin: https://shop.example",)),
        ((201, 201, 201), ()),
    ],
)
async def test_localhost_is_accepted_where_a_site_lists_it(
    serve: Serve, connect: Connect, statuses: tuple[int, ...], lines: tuple[bytes, ...]
) -> None:
    """Twice, because cached results must not leak to another site or page."""
    wire = await connect(await serve(APPS))
    reasons = {201: None, 202: "localhost", 403: "origin_not_allowed"}
    for _ in range(2):
        for status, site in zip(statuses, APPS, strict=True):
            answer = await wire.ask(request(body(), *lines, site=site))
            assert (status, reasons[status]) == (answer.status, answer.headers.get("Collect-Reason"))
            assert 202 == (await wire.ask(request(body(), b"Origin: http://localhost:5173", site=site))).status


async def test_received_equals_stored_plus_dropped(serve: Serve) -> None:
    """Each request is counted once, for its own site."""
    sites: dict[str, dict[str, Any]] = {"demo": {"excluded_paths": ["/x"]}, "off": {"tracking": False}}
    collector = await serve(sites, server={"max_body_bytes": 1000})
    for data in (event(), event(), event(page_path="/x"), {}, event(pad="x" * 1000)):
        await collector.post(data)
        await collector.post(data, "off")
        await collector.post(data, "nobody")
    await collector.post(event(), headers={"Origin": "http://[::1]:8000"})
    assert {"received": 6, "stored": 2, "excluded_path": 1, "invalid": 1, "too_large": 1, "localhost": 1} == tally(
        collector
    )
    assert {"received": 5, "tracking_disabled": 5} == tally(collector, "off")
    assert {"received": 5, "unknown_site": 5} == tally(collector, "(unknown)")
