"""The sample requests are valid, and vary as real traffic does."""

from pathlib import Path

import pytest

from bench.requests import read_requests, requests, write_requests
from bench.sample import TYPES, bodies
from collector.ingest.schema import check, parse

COUNT = 2_000


def header(request: bytes, name: bytes) -> bytes:
    return request.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0]


def test_requests_are_complete_and_reproducible(tmp_path: Path) -> None:
    write_requests(tmp_path / "file", 50, sites=3)
    sent = read_requests(tmp_path / "file")
    assert list(requests(50, sites=3)) == sent
    for request in sent:
        assert int(header(request, b"Content-Length")) == len(request.partition(b"\r\n\r\n")[2])


def test_heads_vary_where_real_ones_do() -> None:
    sent = list(requests(COUNT))
    assert COUNT == len(set(sent))
    for name, most in ((b"X-Forwarded-For", 1_000), (b"User-Agent", 200), (b"Origin", 100), (b"Referer", 200)):
        assert most <= len({header(request, name) for request in sent}), name


def test_every_site_has_requests() -> None:
    assert 100 == len({request.split(b"/")[2] for request in requests(COUNT, sites=100)})


@pytest.mark.parametrize(("size_bytes", "low", "high"), [(0, 650, 1_050), (100, 100, 200), (8_192, 7_500, 8_300)])
def test_bodies_are_valid_events_of_that_size(size_bytes: int, low: int, high: int) -> None:
    types = set()
    for body in bodies(500, size_bytes=size_bytes):
        assert low <= len(body) <= high
        event = parse(body)
        check(event, body)
        types.add(event["event_type"])
    assert set(TYPES) == types
