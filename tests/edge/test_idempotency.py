"""The Idempotency-Key over HTTP: what a sender gets who sends a batch again."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.config import SiteSettings
from collector.edge import batch
from collector.journal.answers import ANSWERS
from collector.journal.segment import SegmentFile
from collector.sender_keys import fingerprint
from collector.sites import build_sites
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Answer, Wire, request, tally
from tests.support import Running, body

SECRET = "ck_correct-horse"
AUTHORIZED = b"Authorization: Bearer " + SECRET.encode()
KEY = b"orders-2026-05-12"
BROKEN = b'{"session_id": 1}'


def keyed(data: bytes, *headers: bytes, key: bytes = KEY, site: str = "demo") -> bytes:
    return request(data, b"Idempotency-Key: " + key, *headers, target=f"/public/{site}/batch")


def lines(count: int) -> bytes:
    return b"\n".join([body()] * count)


def seen(answer: Answer) -> tuple[int, str | None, bytes]:
    return answer.status, answer.reason, answer.body


def numbers(collector: Running, name: str) -> dict[str, int]:
    """The samples of a family that are not zero, by the value of their label; those without a label by their name."""
    page = collector.stages.metrics.snapshot({}, {})().decode()
    (family,) = (each for each in text_string_to_metric_families(page) if each.name == name)
    found = {"".join(sample.labels.values()) or sample.name: int(sample.value) for sample in family.samples}
    return {label: value for label, value in found.items() if value}


def batches(collector: Running) -> dict[str, int]:
    return numbers(collector, "collector_batches")


def batch_events(collector: Running) -> tuple[int, int]:
    """How many batches were split, and how many events they had."""
    found = numbers(collector, "collector_batch_events")
    return found.get("collector_batch_events_count", 0), found.get("collector_batch_events_sum", 0)


async def rows(collector: Running, site: str = "demo") -> int:
    await collector.flush()
    return len(collector.rows(site))


@contextmanager
def commits_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Every commit waits until the context ends. Gives the event that tells that one has begun."""
    begun, go = threading.Event(), threading.Event()
    commit = SegmentFile.commit

    def wait(segment: SegmentFile, *args: Any) -> Any:
        begun.set()
        assert go.wait(10)
        return commit(segment, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentFile, "commit", wait)
        try:
            yield begun
        finally:
            go.set()


@pytest.mark.parametrize(("strict", "status"), [(False, 202), (True, 422)])
@pytest.mark.parametrize("key", [b"", b"k" * 129], ids=len)
async def test_key_that_is_too_short_or_too_long_is_invalid(
    serve: Serve, connect: Connect, key: bytes, strict: bool, status: int
) -> None:
    """Nothing is stored: without the key, a batch that is sent again would be stored twice."""
    collector = await serve({"demo": {"strict": strict}})
    answer = await (await connect(collector)).ask(keyed(lines(2), key=key))
    message = "Validation error: Idempotency-Key must have 1 to 128 characters"
    assert (status, "invalid") == (answer.status, answer.reason)
    assert {"message": message, "stored": 0, "dropped": 1, "errors": []} == answer.json
    assert {"received": 1, "invalid": 1} == tally(collector)
    assert {"refused": 1} == batches(collector)
    assert 0 == await rows(collector)


@pytest.mark.parametrize("key", [b"k", b"k" * 128, "ü".encode() * 128, b"\xff\xfe" * 64], ids=len)
async def test_key_may_have_any_characters(collector: Running, wire: Wire, key: bytes) -> None:
    answers = [await wire.ask(keyed(lines(2), key=key)) for _ in range(2)]
    assert [201, 201] == [answer.status for answer in answers]
    assert {"stored": 1, "repeated": 1} == batches(collector)
    assert 2 == await rows(collector)


@pytest.mark.parametrize("other", [b"L", b"l ?", b"\xff", "ł".encode()], ids=repr)
async def test_keys_are_compared_byte_by_byte(collector: Running, wire: Wire, other: bytes) -> None:
    for key, count in [(b"l", 1), (b"\xfe", 2), (other, 3)]:
        answer = await wire.ask(keyed(lines(count), key=key))
        assert (201, count) == (answer.status, answer.json["stored"])
    assert {"stored": 3} == batches(collector)


@pytest.mark.parametrize(("strict", "status"), [(False, 202), (True, 422)])
@pytest.mark.parametrize("again", [body(), BROKEN, b"[", b"", lines(5)])
async def test_repeat_gets_the_same_answer_whatever_its_body(
    serve: Serve, connect: Connect, again: bytes, strict: bool, status: int
) -> None:
    collector = await serve({"demo": {"strict": strict}})
    wire = await connect(collector)
    first = await wire.ask(keyed(BROKEN + b"\n" + lines(2)))
    assert (status, "invalid", 2) == (first.status, first.reason, first.json["stored"])
    counts, events = tally(collector), batch_events(collector)
    for _ in range(2):
        assert seen(first) == seen(await wire.ask(keyed(again)))
    assert (counts, events) == (tally(collector), batch_events(collector))
    assert {"partial": 1, "repeated": 2} == batches(collector)
    assert 2 == await rows(collector)


async def test_repeat_costs_one_token(serve: Serve, connect: Connect) -> None:
    collector = await serve(rate_limit={"requests_per_minute": 60, "burst": 10})
    wire = await connect(collector)
    assert [201] * 4 == [(await wire.ask(keyed(lines(7)))).status for _ in range(4)]
    answer = await wire.ask(keyed(lines(7)))
    assert (429, "rate_limited") == (answer.status, answer.reason)
    assert {"received": 8, "stored": 7, "rate_limited": 1} == tally(collector)


async def test_key_holds_for_a_day(collector: Running, wire: Wire) -> None:
    for seconds, outcomes in [
        (0, {"stored": 1}),
        (86_399, {"stored": 1, "repeated": 1}),
        (1, {"stored": 2, "repeated": 1}),
    ]:
        collector.clock.advance(seconds)
        assert 201 == (await wire.ask(keyed(lines(1)))).status
        assert outcomes == batches(collector)


async def test_key_in_progress_is_refused_and_costs_nothing(
    collector: Running, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await connect(collector), await connect(collector)
    with commits_held(monkeypatch) as begun:
        asked = asyncio.create_task(first.ask(keyed(lines(2))))
        assert await asyncio.to_thread(begun.wait, 5)
        refused = await second.ask(keyed(lines(2)))
        assert (503, "unavailable", "1") == (refused.status, refused.reason, refused.headers["Retry-After"])
        assert "A batch with this Idempotency-Key is in progress" == refused.json["message"]
        assert not asked.done()
    answer = await asked
    assert (201, 2) == (answer.status, answer.json["stored"])
    assert seen(answer) == seen(await second.ask(keyed(lines(2))))
    assert {"stored": 1, "refused": 1, "repeated": 1} == batches(collector)
    assert {"received": 3, "stored": 2, "unavailable": 1} == tally(collector)
    assert 2 == await rows(collector)


async def test_unusable_answers_refuse_batches_with_a_key_until_they_are_mended(collector: Running, wire: Wire) -> None:
    (collector.data_dir / ANSWERS).mkdir()
    refused = await wire.ask(keyed(lines(2)))
    assert (503, "unavailable", "5") == (refused.status, refused.reason, refused.headers["Retry-After"])
    assert 201 == (await wire.ask(request(lines(1), target="/public/demo/batch"))).status
    (collector.data_dir / ANSWERS).rmdir()
    assert [201, 201] == [(await wire.ask(keyed(lines(2)))).status for _ in range(2)]
    assert {"stored": 2, "refused": 1, "repeated": 1} == batches(collector)
    assert 3 == await rows(collector)


@pytest.mark.parametrize(
    ("site", "first", "status", "outcome"),
    [
        ({}, BROKEN + b"\n" + BROKEN, 202, "dropped"),
        ({"strict": True}, BROKEN, 422, "dropped"),
        ({}, b"[", 202, "refused"),
        ({}, b"", 202, "refused"),
        ({}, lines(11), 429, "refused"),
        ({}, lines(21), 413, "refused"),
        ({}, b"x" * 10_001, 413, None),
    ],
)
async def test_batch_of_which_nothing_is_stored_leaves_the_key_free(
    serve: Serve,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    site: dict[str, Any],
    first: bytes,
    status: int,
    outcome: str | None,
) -> None:
    monkeypatch.setattr(batch, "MAX_EVENTS", 20)
    collector = await serve({"demo": site}, server={"max_batch_bytes": 10_000}, rate_limit={"burst": 10})
    assert status == (await (await connect(collector)).ask(keyed(first))).status
    assert ({outcome: 1} if outcome else {}) == batches(collector)
    answer = await (await connect(collector)).ask(keyed(lines(3)))
    assert (201, 3) == (answer.status, answer.json["stored"])
    assert 3 == await rows(collector)


async def test_failed_commit_leaves_the_key_free(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SegmentFile, "commit", full)
        refused = await wire.ask(keyed(lines(2)))
    assert (503, "5") == (refused.status, refused.headers["Retry-After"])
    await collector.stages.journal.retry()
    assert [201, 201] == [(await wire.ask(keyed(lines(2)))).status for _ in range(2)]
    assert {"stored": 1, "refused": 1, "repeated": 1} == batches(collector)
    assert 2 == await rows(collector)


async def test_batch_while_tracking_is_off_leaves_the_key_free(collector: Running, wire: Wire) -> None:
    decider = collector.stages.decider
    for tracking, answered in [(False, (202, 0)), (True, (201, 2)), (False, (201, 2))]:
        sites = build_sites({"demo": SiteSettings(tracking=tracking)})
        decider.rules = replace(decider.rules, sites=sites)
        answer = await wire.ask(keyed(lines(2)))
        assert answered == (answer.status, answer.json["stored"])
    assert {"dropped": 1, "stored": 1, "repeated": 1} == batches(collector)
    assert 2 == await rows(collector)


async def test_batch_of_a_page_on_localhost_leaves_the_key_free(collector: Running, wire: Wire) -> None:
    answer = await wire.ask(keyed(lines(2), b"Origin: http://localhost:3000"))
    assert (202, "localhost", 0) == (answer.status, answer.reason, answer.json["stored"])
    assert 201 == (await wire.ask(keyed(lines(2)))).status
    assert {"dropped": 1, "stored": 1} == batches(collector)


async def test_sites_have_keys_of_their_own(serve: Serve, connect: Connect) -> None:
    collector = await serve({"demo": {}, "shop": {}})
    wire = await connect(collector)
    for site, count in [("demo", 1), ("shop", 2), ("demo", 1), ("shop", 2)]:
        assert count == (await wire.ask(keyed(lines(count), site=site))).json["stored"]
    assert {"stored": 2, "repeated": 2} == batches(collector)
    assert (1, 2) == (await rows(collector, "demo"), await rows(collector, "shop"))


async def test_senders_with_a_key_of_the_site_have_keys_of_their_own(serve: Serve, connect: Connect) -> None:
    collector = await serve({"demo": {"keys": [fingerprint(SECRET)]}})
    wire = await connect(collector)
    requests: list[tuple[int, Sequence[bytes]]] = [(1, ()), (2, (AUTHORIZED,)), (1, ()), (2, (AUTHORIZED,))]
    for count, headers in requests:
        assert count == (await wire.ask(keyed(lines(count), *headers))).json["stored"]
    assert {"stored": 2, "repeated": 2} == batches(collector)
    assert 3 == await rows(collector)


@pytest.mark.parametrize("path", ["analytics/collect", "e"])
@pytest.mark.parametrize("key", [KEY, b"", b"k" * 129], ids=len)
async def test_single_events_have_no_key(collector: Running, wire: Wire, path: str, key: bytes) -> None:
    sent = request(body(), b"Idempotency-Key: " + key, target=f"/public/demo/{path}")
    assert [201, 201] == [(await wire.ask(sent)).status for _ in range(2)]
    assert {} == batches(collector)
    assert 2 == await rows(collector)


@pytest.mark.parametrize(
    ("data", "headers", "outcome", "events"),
    [
        (lines(3), (), "stored", 3),
        (lines(2) + b"\n" + BROKEN, (), "partial", 3),
        (BROKEN + b"\n" + BROKEN, (), "dropped", 2),
        (lines(3), (b"Origin: http://localhost:3000",), "dropped", 3),
        (lines(11), (), "refused", 11),
        (b"[" + body(), (), "refused", None),
        (lines(3), (b"Content-Encoding: br",), None, None),
    ],
)
async def test_batch_is_counted_by_outcome_and_events(
    serve: Serve, connect: Connect, data: bytes, headers: Sequence[bytes], outcome: str | None, events: int | None
) -> None:
    """One that is refused unread is counted as one dropped event only."""
    collector = await serve(rate_limit={"burst": 10})
    await (await connect(collector)).ask(request(data, *headers, target="/public/demo/batch"))
    assert ({outcome: 1} if outcome else {}) == batches(collector)
    assert ((1, events) if events else (0, 0)) == batch_events(collector)
