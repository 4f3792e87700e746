"""Batches over HTTP: each event is judged by itself, and the answer says which were not stored, and why."""

import asyncio
import gc
import gzip
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from collector.edge import batch
from collector.journal.answers import ANSWERS
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Answer, Wire, head, request, tally, until
from tests.support import Running, body

BATCH = "/public/demo/batch"
BROKEN = b'{"session_id": 1}'
WRONG_TYPE = "Validation error: session_id must be a string"


def array(*events: bytes) -> bytes:
    return b"[" + b",".join(events) + b"]"


def lines(*events: bytes) -> bytes:
    return b"\n".join(events)


def batch_request(data: bytes, *headers: bytes, site: str = "demo") -> bytes:
    return request(data, *headers, target=f"/public/{site}/batch")


def numbered(count: int) -> list[bytes]:
    return [body(page_path=f"/{number}") for number in range(count)]


async def paths(collector: Running) -> list[str]:
    await collector.flush()
    return [row["page_path"] for row in collector.rows()]


@pytest.mark.parametrize("form", [array, lines])
async def test_all_events_of_a_batch_are_stored_in_order(collector: Running, wire: Wire, form: Any) -> None:
    answer = await wire.ask(batch_request(form(*numbered(3))))
    assert (201, {"message": "Batch received", "stored": 3}, None) == (answer.status, answer.json, answer.reason)
    assert {"received": 3, "stored": 3} == tally(collector)
    assert ["/0", "/1", "/2"] == await paths(collector)


@pytest.mark.parametrize(
    "data",
    [
        b" \r\n [%b ,\n%b]\n\t",
        b"\xef\xbb\xbf[%b,%b]",
        b"%b\n%b\n",
        b"%b\r\n\r\n \t\n%b\r\n",
        b"\xef\xbb\xbf\n%b\n%b",
    ],
)
async def test_blanks_and_a_byte_order_mark_are_no_events(collector: Running, wire: Wire, data: bytes) -> None:
    answer = await wire.ask(batch_request(data % (body(), body())))
    assert (201, 2) == (answer.status, answer.json["stored"])


@pytest.mark.parametrize("form", [array, lines])
async def test_event_that_is_not_stored_costs_no_other(collector: Running, wire: Wire, form: Any) -> None:
    answer = await wire.ask(batch_request(form(body(), BROKEN, body(), b"7", body(page_path="/end"))))
    assert (202, "invalid") == (answer.status, answer.reason)
    assert {
        "message": "3 of 5 events stored",
        "stored": 3,
        "dropped": 2,
        "errors": [
            {"index": 1, "reason": "invalid", "message": answer.json["errors"][0]["message"]},
            {"index": 3, "reason": "invalid", "message": "Validation error: body is not one JSON object"},
        ],
    } == answer.json
    assert {"received": 5, "stored": 3, "invalid": 2} == tally(collector)
    assert ["/pricing", "/pricing", "/end"] == await paths(collector)


@pytest.mark.parametrize("form", [array, lines])
async def test_event_that_nests_too_deeply_costs_no_other(collector: Running, wire: Wire, form: Any) -> None:
    deep = body()[:-1] + b', "x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    answer = await wire.ask(batch_request(form(body(), deep, body())))
    assert (202, 2, [1]) == (answer.status, answer.json["stored"], [each["index"] for each in answer.json["errors"]])


async def test_bad_line_in_the_middle_is_the_only_one_that_is_lost(collector: Running, wire: Wire) -> None:
    answer = await wire.ask(batch_request(lines(body(), body()[:40], body())))
    assert (202, 2, [1]) == (answer.status, answer.json["stored"], [each["index"] for each in answer.json["errors"]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no events"),
        (b" \n\r\n", "holds no events"),
        (b"[]", "holds no events"),
        (b"[ ]", "holds no events"),
        (array(body(), body())[:-1], "is not a JSON array"),
        (array(body(), body())[:-9], "is not a JSON array"),
        (array(body()) + b"x", "is not a JSON array; it is broken at byte"),
        (array(body(), b"x", body()), "is not a JSON array; it is broken at byte"),
        (b"[" * 100_000, "is not a JSON array"),
    ],
)
@pytest.mark.parametrize(("strict", "status"), [(False, 202), (True, 422)])
async def test_batch_that_cannot_be_read_stores_nothing(
    serve: Serve, connect: Connect, data: bytes, message: str, strict: bool, status: int
) -> None:
    collector = await serve({"demo": {"strict": strict}})
    answer = await (await connect(collector)).ask(batch_request(data))
    assert (status, "invalid") == (answer.status, answer.reason)
    assert answer.json.pop("message").startswith(f"Validation error: body {message}")
    counts = {name: answer.json[name] for name in ("stored", "dropped", "errors")}
    assert {"stored": 0, "dropped": 1, "errors": []} == counts
    assert {"received": 1, "invalid": 1} == tally(collector)
    assert 0 == collector.stages.journal.unpublished_rows


async def test_strict_site_answers_422_and_keeps_the_good_events(serve: Serve, connect: Connect) -> None:
    collector = await serve({"demo": {"strict": True}})
    answer = await (await connect(collector)).ask(batch_request(array(body(), BROKEN)))
    assert (422, 1, 1) == (answer.status, answer.json["stored"], answer.json["dropped"])
    assert {"received": 2, "stored": 1, "invalid": 1} == tally(collector)


async def test_answer_explains_the_first_hundred_and_lists_all(collector: Running, wire: Wire) -> None:
    answer = await wire.ask(batch_request(array(body(), *[BROKEN] * 150)))
    assert [*range(1, 101)] == [each["index"] for each in answer.json["errors"]]
    assert ([*range(1, 151)], 150) == (answer.json["dropped_indexes"], answer.json["dropped"])


async def test_each_event_meets_the_rules_of_a_single_one(serve: Serve, connect: Connect) -> None:
    collector = await serve({"demo": {"excluded_paths": ["/private/*"]}}, server={"max_body_bytes": 1_000})
    sent = array(body(page_path="/private/1"), body(page_title="x" * 1_000), body())
    answer = await (await connect(collector)).ask(batch_request(sent))
    assert [(0, "excluded_path"), (1, "too_large")] == [(e["index"], e["reason"]) for e in answer.json["errors"]]
    assert (202, "excluded_path", 1) == (answer.status, answer.reason, answer.json["stored"])


@pytest.mark.parametrize(
    ("site", "headers", "reason"),
    [
        ({"tracking": False}, (), "tracking_disabled"),
        ({"excluded_ips": ["127.0.0.0/8"]}, (), "excluded_ip"),
        ({}, (b"Origin: http://localhost:3000",), "localhost"),
    ],
)
async def test_ignored_batch_counts_all_its_events(
    serve: Serve, connect: Connect, site: dict[str, Any], headers: Sequence[bytes], reason: str
) -> None:
    collector = await serve({"demo": site})
    answer = await (await connect(collector)).ask(batch_request(array(body(), BROKEN, body()), *headers))
    assert (202, reason, 0, 3) == (answer.status, answer.reason, answer.json["stored"], answer.json["dropped"])
    assert {"received": 3, reason: 3} == tally(collector)


@pytest.mark.parametrize(
    ("sites", "site", "headers", "status", "reason"),
    [
        ({"demo": {}}, "other", (), 404, "unknown_site"),
        ({"demo": {"allowed_origins": ["https://a.example"]}}, "demo", (b"Origin: https://b.example",), 403, None),
        ({"demo": {}}, "demo", (b"Content-Encoding: br",), 415, "encoding"),
    ],
)
async def test_batch_that_is_refused_unread_counts_as_one_event(
    serve: Serve,
    connect: Connect,
    sites: dict[str, Any],
    site: str,
    headers: Sequence[bytes],
    status: int,
    reason: str | None,
) -> None:
    collector = await serve(sites)
    answer = await (await connect(collector)).ask(batch_request(array(*numbered(3)), *headers, site=site))
    reason = reason or "origin_not_allowed"
    assert (status, reason) == (answer.status, answer.reason)
    assert {"received": 1, reason: 1} == tally(collector, "(unknown)" if site == "other" else "demo")


async def test_other_methods_are_refused_and_a_preflight_is_answered(collector: Running, wire: Wire) -> None:
    answer = await wire.ask(head(method="GET", target=BATCH))
    assert (405, "POST, OPTIONS") == (answer.status, answer.headers["Allow"])
    asks = (b"Origin: https://a.example", b"Access-Control-Request-Headers: idempotency-key, content-encoding")
    answer = await wire.ask(head(*asks, method="OPTIONS", target=BATCH))
    assert (204, "idempotency-key, content-encoding") == (
        answer.status,
        answer.headers["Access-Control-Allow-Headers"],
    )


async def test_batch_may_be_larger_than_a_single_event_but_has_a_limit(serve: Serve, connect: Connect) -> None:
    collector = await serve(server={"max_body_bytes": 1_000, "max_batch_bytes": 10_000})
    wire = await connect(collector)
    fitting = array(*numbered(30))
    assert 1_000 < len(fitting) <= 10_000
    assert 201 == (await wire.ask(batch_request(fitting))).status
    answer = await wire.ask(batch_request(array(*numbered(90))))
    assert (413, "too_large") == (answer.status, answer.reason)
    assert {"received": 31, "stored": 30, "too_large": 1} == tally(collector)


async def test_too_many_events_are_refused_whole(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MAX_EVENTS", 10)
    collector = await serve()
    wire = await connect(collector)
    assert 201 == (await wire.ask(batch_request(array(*numbered(10))))).status
    answer = await wire.ask(batch_request(array(*numbered(11))))
    assert (413, "too_large") == (answer.status, answer.reason)
    assert "Batch has more than 10 events: split it" == answer.json["message"]
    assert {"received": 21, "stored": 10, "too_large": 11} == tally(collector)


async def test_batch_costs_a_token_for_each_event(serve: Serve, connect: Connect) -> None:
    collector = await serve(rate_limit={"requests_per_minute": 60, "burst": 10})
    wire = await connect(collector)
    assert 201 == (await wire.ask(batch_request(array(*numbered(7))))).status
    refused = await wire.ask(batch_request(array(*numbered(4))))
    # The refused one paid a token before it was read. Two are left, so four are there in two seconds.
    assert (429, "rate_limited", "2") == (refused.status, refused.reason, refused.headers["Retry-After"])
    assert {"received": 11, "stored": 7, "rate_limited": 4} == tally(collector)
    collector.clock.advance(2)
    assert 201 == (await wire.ask(batch_request(array(*numbered(4))))).status
    assert 429 == (await wire.ask(request(body()))).status


async def test_batch_larger_than_the_bucket_is_told_to_split(serve: Serve, connect: Connect) -> None:
    collector = await serve(rate_limit={"requests_per_minute": 60, "burst": 10})
    answer = await (await connect(collector)).ask(batch_request(array(*numbered(11))))
    assert (429, "Batch has more than 10 events: split it") == (answer.status, answer.json["message"])
    assert "Retry-After" not in answer.headers
    assert {"received": 11, "rate_limited": 11} == tally(collector)


async def test_batch_whose_first_token_is_missing_is_refused_unread(serve: Serve, connect: Connect) -> None:
    collector = await serve(rate_limit={"requests_per_minute": 60, "burst": 1})
    wire = await connect(collector)
    assert 201 == (await wire.ask(request(body()))).status
    assert 429 == (await wire.ask(batch_request(array(*numbered(5))))).status
    assert {"received": 2, "stored": 1, "rate_limited": 1} == tally(collector)


async def test_truncated_batch_stores_nothing(collector: Running, connect: Connect) -> None:
    data = lines(*numbered(3))
    wire = await connect(collector)
    wire.send(head(b"Content-Length: %d" % (len(data) + 1), target=BATCH) + data)
    wire.send_eof()
    assert b"" == await wire.rest()
    await until(lambda: {"received": 1, "aborted": 1} == tally(collector))


async def test_batch_is_refused_whole_while_nothing_can_be_stored(collector: Running, wire: Wire) -> None:
    collector.stages.journal.blocked_reason = "disk space is low"
    answer = await wire.ask(batch_request(array(body(), BROKEN)))
    assert (503, "5") == (answer.status, answer.headers["Retry-After"])
    assert {"received": 1, "unavailable": 1} == tally(collector)


async def test_failed_commit_stores_nothing_and_says_so(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("collector.journal.segment.SegmentFile.commit", full)
    answer = await wire.ask(batch_request(array(body(), BROKEN, body())))
    assert (503, "5") == (answer.status, answer.headers["Retry-After"])
    assert {"received": 3, "unavailable": 2, "invalid": 1} == tally(collector)


@pytest.mark.parametrize("durability", ["write", "memory"])
async def test_next_batch_gets_its_turn_after_any_outcome(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """A batch holds the turn, and the garbage collector, until the journal has let go of its events."""
    collector = await serve(
        {"demo": {}}, storage={"durability": durability}, server={"max_batch_bytes": 10_000}, rate_limit={"burst": 20}
    )
    wire = await connect(collector)

    def fail(*_: object) -> None:
        raise RuntimeError("injected bug")

    for data, status in [
        (body(), 201),
        (array(body(), BROKEN), 202),
        (BROKEN, 202),
        (b"[", 202),
        (b"x" * 10_001, 413),
        (array(*numbered(21)), 429),
    ]:
        assert status == (await wire.ask(batch_request(data))).status
        wire = await connect(collector)
    monkeypatch.setattr("collector.edge.batch.accept", fail)
    assert 500 == (await wire.ask(batch_request(body()))).status
    monkeypatch.undo()
    await until(gc.isenabled)
    assert 201 == (await wire.ask(batch_request(body()))).status
    await until(gc.isenabled)


async def test_invalid_events_of_a_batch_are_kept(collector: Running, wire: Wire) -> None:
    await wire.ask(batch_request(array(body(), BROKEN)))
    await collector.flush()
    (rejected,) = collector.rejected()
    assert BROKEN.decode() == rejected["body"]


@pytest.mark.parametrize("form", [array, lines])
async def test_packed_batch_is_unpacked(collector: Running, wire: Wire, form: Any) -> None:
    answer = await wire.ask(batch_request(gzip.compress(form(*numbered(3))), b"Content-Encoding: gzip"))
    assert (201, 3) == (answer.status, answer.json["stored"])


async def test_packed_batch_is_limited_unpacked(serve: Serve, connect: Connect) -> None:
    collector = await serve(server={"max_batch_bytes": 10_000})
    answer = await (await connect(collector)).ask(
        batch_request(gzip.compress(array(*numbered(200))), b"Content-Encoding: gzip")
    )
    assert (413, {"received": 1, "too_large": 1}) == (answer.status, tally(collector))


async def test_broken_gzip_stores_nothing(collector: Running, wire: Wire) -> None:
    for sent in (gzip.compress(lines(*numbered(3)))[:-5], b"plain"):
        answer = await wire.ask(batch_request(sent, b"Content-Encoding: gzip"))
        assert (202, "invalid", 0) == (answer.status, answer.reason, answer.json["stored"])
    assert {"received": 2, "invalid": 2} == tally(collector)


async def ask_many(collector: Running, connect: Connect, requests: list[bytes]) -> list[Answer]:
    wires = [await connect(collector) for _ in requests]
    return await asyncio.gather(*(wire.ask(sent) for wire, sent in zip(wires, requests, strict=True)))


@pytest.mark.parametrize(("limit", "of_one"), [("WAITING_MAX_BYTES", 40_000), ("WAITING_MAX", 1)])
async def test_waiting_batches_have_a_limit(
    collector: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch, limit: str, of_one: int
) -> None:
    """Of their number too: packed ones are small, and take as long."""
    data = array(*numbered(300))
    assert 40_000 < len(data) < 50_000
    monkeypatch.setattr(batch, limit, 2 * of_one)
    answers = await ask_many(collector, connect, [batch_request(data)] * 5)
    statuses = sorted(answer.status for answer in answers)
    assert 201 == statuses[0]
    assert 503 == statuses[-1]
    counts = tally(collector)
    assert 300 * statuses.count(201) == counts["stored"]
    assert statuses.count(503) == counts["unavailable"]


async def test_batch_leaves_the_loop_to_others(serve: Serve, connect: Connect) -> None:
    """A single event that comes later is answered first, because a batch is judged in slices."""
    collector = await serve(rate_limit={"requests_per_minute": 0})
    large, single = await connect(collector), await connect(collector)
    order: list[str] = []

    async def ask(name: str, wire: Wire, sent: bytes) -> None:
        assert 201 == (await wire.ask(sent)).status
        order.append(name)

    batches = asyncio.create_task(ask("batch", large, batch_request(array(*[body()] * 10_000))))
    await until(lambda: collector.stages.decider.in_flight.count)
    await asyncio.gather(batches, ask("single", single, request(body())))
    assert ["single", "batch"] == order


async def test_unusable_answers_are_logged_once(
    collector: Running, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for each batch: anyone can send them, as many as the rate limit allows."""
    (collector.data_dir / ANSWERS).mkdir()
    for index in range(5):
        answer = await wire.ask(batch_request(body(), b"Idempotency-Key: key-%d" % index))
        assert 503 == answer.status
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 == len(warnings), warnings
    assert ANSWERS in warnings[0]
