"""Random conversations, cut anywhere: both paths send the same bytes, store the same rows and count the same."""

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.edge.wire import chunk, head, per_site, request
from tests.support import Running, body, config, running

SITES: dict[str, dict[str, Any]] = {
    "demo": {"excluded_paths": ["/admin/*"], "excluded_ips": ["192.0.2.8"]},
    "off": {"tracking": False},
    "strict": {"strict": True},
    "listed": {"allowed_origins": ["https://shop.example"]},
}
CONVERSATIONS = 60
PAUSE_S = 0.004  # between two pieces, so that most of them arrive apart

BODIES = (
    *3 * (body(),),
    body(page_title="x" * 3_000),
    b"\xef\xbb\xbf" + body(),
    b"\xff" + body(),
    b"\r\n\r\n" + body(),
    body(page_path="/admin/x"),
    body(page_title="\ud800", lcp=2**60),
    body(event_time="now"),
    b"{",
    b"[]",
    b"",
)
LINES: tuple[tuple[bytes, ...], ...] = (
    *3 * ((),),
    (b"Origin: https://shop.example",),
    (b"Origin: http://localhost",),
    (b"Origin: null", b"Referer: http://localhost/x"),
    (b"Origin:  https://a.example ",),
    (b"Connection: keep-alive", b"User-Agent: Agent/1"),
    (b"User-Agent: \xff",),
    (b"Content-Encoding: gzip",),
    (b"Content-Encoding: identity",),
    (b"Connection: Upgrade", b"Upgrade: h2c"),
    (b"X: a", b"X: b"),
    (b"Cookie: " + b"c" * 5_000,),
    (b"X-Forwarded-For: 192.0.2.7",),
    (b"X-Forwarded-For: 192.0.2.7, 192.0.2.8",),
    (b"X-Forwarded-For: 2001:db8::1%, 192.0.2.8",),
)
CLOSING: tuple[bytes, ...] = (
    request(body(), b"Connection: close"),
    request(b"{", b"Connection: close"),
    request(body(), b"Proxy-Connection: close"),
    request(body(), version="1.0"),
    request(body(), b"Content-Length: 3"),
    request(body(), b"Host: twice"),
    request(body(), b"X: a", b" folded"),
    request(body(), b"X: a\0"),
    request(body()) + b"\r\nno HTTP\r\n\r\n",
    request(bytes(100_000)),
    request(body()).replace(b"\r\n", b"\n"),
    head(target="http://[::1]..@"),
    head(b"Transfer-Encoding: chunked") + b"no chunk\r\n",
    b"POST /nowhere HTTP/1.1\r\nX: ",
)


def conversation(random: Random) -> list[bytes]:
    """The requests of one client, cut into the pieces it sends. Only the last request may close the connection."""
    requests = [_request(random) for _ in range(random.randint(0, 3))]
    requests.append(random.choice((*CLOSING, _request(random))))
    if random.random() < 0.4:
        return requests
    data = b"".join(requests)
    cuts = sorted(random.randrange(len(data)) for _ in range(random.randint(0, 4)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]


def _request(random: Random) -> bytes:
    data, lines = random.choice(BODIES), random.choice(LINES)
    site = random.choice(("demo", "demo", "demo", "off", "strict", "listed", "nobody", "d%65mo"))
    match random.randrange(20):
        case 0:
            return request(data, *lines, site=site, method=random.choice(("PUT", "OPTIONS", "GET")))
        case 1:
            chunks = (chunk(data) if data else b"") + chunk(b"")
            return head(b"Transfer-Encoding: chunked", *lines, site=site) + chunks
        case 2:
            return random.randint(1, 3) * b"\r\n" + request(data, *lines, site=site)
        case 3:
            target = random.choice(
                ("/", "http://x/public/demo/analytics/collect", "//", "/public/demo/analytics/collect?")
            )
            return request(data, *lines, target=target)
        case 4:
            target = random.choice(("/t.js", "/public/demo/t.js", "/public/nobody/t.js", "/t-0123456789ab.js"))
            return head(*lines, target=target, method=random.choice(("GET", "GET", "OPTIONS")))
        case 5 | 6 | 7:
            return request(data, *lines, target=f"/public/{site}/e")
    return request(data, *lines, site=site)


async def responses_to(collector: Running, pieces: list[bytes], pauses: list[bool]) -> bytes:
    """Everything the collector sends until it closes the connection, without the Date lines."""
    reader, writer = await asyncio.open_connection(collector.host, collector.port)
    received = bytearray()

    async def read() -> None:
        with suppress(ConnectionError):  # the collector closed before the last piece arrived
            while data := await reader.read(1 << 16):
                received.extend(data)

    reading = asyncio.create_task(read())
    with suppress(OSError, RuntimeError):  # already closed: asyncio raises the one, uvloop the other
        for piece, pauses_after in zip(pieces, pauses, strict=True):
            writer.write(piece)
            if pauses_after:
                await asyncio.sleep(PAUSE_S)
        writer.write_eof()
    async with asyncio.timeout(10):
        await reading
    writer.close()
    return re.sub(rb"Date: [^\r]*\r\n", b"Date:\r\n", bytes(received))


@pytest.mark.parametrize("seed", range(6))
async def test_both_paths_give_the_same_responses_rows_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("collector.edge.connection.LINGERING_S", 0.05)
    fast, standard = (
        config(
            tmp_path / str(fast_path),
            SITES,
            server={"fast_path": fast_path, "trusted_proxies": ["127.0.0.1"]},
            rate_limit={"requests_per_minute": 0},
            privacy={"client_ip": "full"},
        )
        for fast_path in (True, False)
    )
    random = Random(seed)
    async with running(fast) as one, running(standard) as other:
        for _ in range(CONVERSATIONS):
            pieces = conversation(random)
            pauses = [random.random() < 0.6 for _ in pieces]
            sent = await asyncio.gather(responses_to(one, pieces, pauses), responses_to(other, pieces, pauses))
            assert sent[1] == sent[0], pieces
        counts, stored = [], []
        for collector in (one, other):
            counts.append(per_site(collector.stages.metrics.snapshot({}, {})().decode()))
            assert 0 == collector.stages.decider.in_flight.count
            await collector.flush()
            rows = [row for site in SITES for row in collector.rows(site) if row.pop("received_at")]
            stored.append(sorted(map(repr, rows)))
        assert counts[1] == counts[0]
        assert stored[1] == stored[0]
        assert len(stored[0]) > CONVERSATIONS / 4
