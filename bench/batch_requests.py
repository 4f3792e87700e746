"""Requests with many events, as a server with a key sends them: the events of bench/requests.py, NDJSON or an array."""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bench.requests import body, framed, header, requests, site_name

MAX_BYTES = 4 << 20  # the default of `server.max_batch_bytes`


@dataclass(frozen=True, slots=True)
class Form:
    """What a batch is like."""

    title: str
    most_events: int
    max_bytes: int = MAX_BYTES
    is_array: bool = False
    is_gzip: bool = False
    has_visitor: bool = False
    """Whether each event has the address and the user agent of its visitor."""


@dataclass(frozen=True, slots=True)
class Written:
    """The batches of a file: how many, and how large the mean one is. Bytes are those of the body as it is sent."""

    batches: int
    events_per_batch: float
    batch_bytes: float


def write_batches(path: Path, form: Form, key: str, count: int, size_bytes: int = 0, seed: int = 1) -> Written:
    """Write the events of so many requests to a file of complete requests, as `write_requests` does."""
    singles = _singles(count, size_bytes, seed)
    events = (on_behalf(single) if form.has_visitor else body(single) for single in singles)
    cut = list(batches(events, form.most_events, form.max_bytes))
    packed = [pack(batch, form) for batch in cut]
    path.write_bytes(framed(_request(each, form, key) for each in packed))
    return Written(len(cut), sum(map(len, cut)) / len(cut), sum(map(len, packed)) / len(cut))


@lru_cache(maxsize=1)  # 40 MB, which take seconds to generate
def _singles(count: int, size_bytes: int, seed: int) -> list[bytes]:
    return list(requests(count, 1, size_bytes, seed))


def batches(events: Iterable[bytes], most_events: int, max_bytes: int) -> Iterator[list[bytes]]:
    """Cut events into batches of so many, or as many as fit. All are full: events that do not fill one are left out.

    If they fill none, there is one batch with all of them.
    """
    batch: list[bytes] = []
    size_bytes, is_first = 2, True  # the brackets of an array
    for event in events:
        if len(batch) == most_events or size_bytes + len(event) + 1 > max_bytes:
            yield batch
            batch, size_bytes, is_first = [], 2, False
        batch.append(event)
        size_bytes += len(event) + 1
    if is_first or len(batch) == most_events:
        yield batch


def pack(batch: Sequence[bytes], form: Form) -> bytes:
    """Return the body of the request."""
    joined = b"[%b]" % b",".join(batch) if form.is_array else b"\n".join([*batch, b""])
    return gzip.compress(joined, mtime=0) if form.is_gzip else joined


def on_behalf(request: bytes, **more: str) -> bytes:
    """Return the event of a request, with the address and the user agent of its sender, and with more fields."""
    visitor = {"client_ip": header(request, b"X-Forwarded-For"), "user_agent": header(request, b"User-Agent")}
    fields = json.dumps(more | visitor, separators=(",", ":")).encode()
    return body(request)[:-1] + b"," + fields[1:]


def _request(packed: bytes, form: Form, key: str) -> bytes:
    lines = (
        f"POST /public/{site_name(0)}/batch HTTP/1.1",
        "Host: collect.example.com",
        "X-Forwarded-For: 80.0.0.1",
        "X-Forwarded-Proto: https",
        f"Content-Length: {len(packed)}",
        f"Content-Type: application/{'json' if form.is_array else 'x-ndjson'}",
        *(["Content-Encoding: gzip"] if form.is_gzip else []),
        f"Authorization: Bearer {key}",
        "User-Agent: shop/1.0",
        "Accept: application/json",
    )
    return "\r\n".join((*lines, "", "")).encode() + packed
