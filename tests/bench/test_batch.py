"""Batches hold the events of the single requests, and a run counts every one of them."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import bench.peak
from bench.batch import SINGLE, all_stored, batch, batched, ratios
from bench.batch_load import send
from bench.batch_requests import Form, batches, on_behalf, pack, write_batches
from bench.peak import Shape
from bench.requests import body, header, read_requests, requests
from bench.server import NoResult
from bench.subject import Setup
from collector.sender_keys import fingerprint

KEY = "ck_test"
COUNT = 50
EVENTS = [body(request) for request in requests(COUNT)]
FORM = Form("ten", 10)
SETUP = Setup(keys=(fingerprint(KEY),))


@pytest.mark.parametrize(
    ("most_events", "max_bytes", "sizes"),
    [(2, 100, [2, 2]), (9, 100, [5]), (5, 100, [5]), (9, 8, [2, 2]), (9, 7, [1, 1, 1, 1])],
)
def test_batches_are_full_by_number_or_by_bytes(most_events: int, max_bytes: int, sizes: list[int]) -> None:
    """Events of 2 bytes, and a separator each. Those that do not fill a batch are left out, unless they are all."""
    cut = list(batches([b"{}"] * 5, most_events, max_bytes))
    assert sizes == list(map(len, cut))
    assert all(len(pack(each, Form("", 1, is_array=True))) <= max_bytes for each in cut)


@pytest.mark.parametrize("form", [FORM, Form("", 10, is_array=True), Form("", 10, is_gzip=True)])
def test_batches_hold_the_events_of_the_single_requests(tmp_path: Path, form: Form) -> None:
    written = write_batches(tmp_path / "file", form, KEY, COUNT)
    sent = read_requests(tmp_path / "file")
    assert (5, 10.0) == (written.batches, written.events_per_batch)
    found: list[Any] = []
    for request in sent:
        assert f"Bearer {KEY}" == header(request, b"Authorization")
        assert len(body(request)) == int(header(request, b"Content-Length"))
        text = gzip.decompress(body(request)) if form.is_gzip else body(request)
        found += json.loads(text) if form.is_array else map(json.loads, text.splitlines())
    assert [json.loads(event) for event in EVENTS] == found


def test_event_on_behalf_of_a_visitor_has_address_and_user_agent_of_its_sender() -> None:
    (request,) = requests(1)
    visitor = {"client_ip": header(request, b"X-Forwarded-For"), "user_agent": header(request, b"User-Agent")}
    assert json.loads(body(request)) | visitor | {"more": "x"} == json.loads(on_behalf(request, more="x"))


def test_ratio_is_to_the_single_requests_of_the_same_pair() -> None:
    """One run of single requests serves the forms on both sides. The machine slows down between the rounds."""
    figures = [("a", 0, 10.0), (SINGLE, 0, 20.0), ("b", 0, 40.0), ("b", 1, 30.0), (SINGLE, 1, 60.0), ("a", 1, 90.0)]
    runs = [
        {"kind": "run", "title": title, "round": number, "pair": 0, "cpu_us_per_event": cpu_us}
        for title, number, cpu_us in figures
    ]
    found = {run["title"]: (run["cpu_ratio"], run["lowest"], run["highest"]) for run in ratios(runs)}
    assert {"a": (1.0, 0.5, 1.5), "b": (1.25, 0.5, 2.0)} == found


@asynccontextmanager
async def stub(*answers: bytes) -> AsyncIterator[int]:
    """Run a server that gives these answers in turn, the last one again and again; yield its port."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readexactly(len(b"batch"))
                writer.write(left.pop(0) if len(left) > 1 else left[0])
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


STORED = b'HTTP/1.1 201 Created\r\nContent-Length: 12\r\n\r\n{"stored":7}'
PARTLY = b'HTTP/1.1 202 Accepted\r\nContent-Length: 12\r\n\r\n{"stored":6}'


async def test_sender_counts_the_events_of_batches_that_are_stored_as_a_whole() -> None:
    async with stub(PARTLY, STORED) as port:
        load = await asyncio.to_thread(send, "127.0.0.1", port, [b"batch"], 0.1)
    assert 1 == load.not_2xx
    assert 7 * (load.sent - 1) == load.acknowledged > 0
    assert 0.1 <= load.seconds
    with pytest.raises(NoResult, match=r"1 of .* batches were not stored as a whole"):
        all_stored(load)


def test_run_counts_every_event_of_a_real_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.peak, "WARM_UP_S", 0.1)
    run = batched(SETUP, Shape(seconds=0.3, requests=COUNT), FORM, KEY)
    assert (1, 10.0, 0) == (run["connections"], run["events_per_batch"], run["events"] % 10)
    assert 0 < run["cpu_us_per_event"]


def test_run_without_the_key_in_the_configuration_is_no_result() -> None:
    """The key of a site that has none is ignored, so the rate limit holds."""
    with pytest.raises(NoResult, match="batches were not stored"):
        batched(Setup(), Shape(seconds=0.3, requests=2_000), Form("too many", 1_300), KEY)


def test_scenario_measures_single_requests_beside_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the single requests at full load, which need wrk."""
    monkeypatch.setattr(bench.peak, "WARM_UP_S", 0.1)
    monkeypatch.setattr(
        "bench.batch.peak", lambda setup, shape: shape.labels | {"cpu_us_per_event": 1, "per_second": 1}
    )
    monkeypatch.setattr("bench.batch.STARTS_WITHIN_S", 0.5)
    runs = batch(Setup(), Shape(seconds=0.3, requests=COUNT), 1, [FORM], beside_s=1.5)
    alone, both = (run for run in runs if run["kind"] == "beside")
    assert (30, 10) == (alone["requests"], both["requests"])
    assert 0 < both["batches_per_second"]
    assert 0 < both["event_loop_lag"]["ticks"]
