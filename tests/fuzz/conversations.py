"""Conversations: what a client sends over one connection, and which responses to expect.

Each depends only on the run's seed and its number, so any one can be reproduced. Its requests are valid at first. In a
wild conversation one of them is then mutated (tests/fuzz/mutations.py); from that one on no response is predicted.
"""

import gzip
import re
from dataclasses import dataclass, replace
from enum import Enum
from random import Random
from typing import Any
from urllib.parse import urlencode

from bench.requests import requests as sample_requests
from collector.edge.decide import UNREAD_KEPT_BYTES
from collector.sender_keys import fingerprint
from tests.fuzz.bodies import FIELDS, SAMPLES, Batch, identity, make_batch, make_body
from tests.fuzz.mutations import mutate
from tests.ingest.oracle import row_of
from tests.support import NOON_US

KEY = "ck_of-a-sender"
SITES: dict[str, dict[str, Any]] = {
    "open": {},
    "off": {"tracking": False},
    "strict": {"strict": True},
    "listed": {"allowed_origins": ["https://shop.example", "*.shop.example"]},
    "keyed": {"keys": [fingerprint(KEY)]},
    "humans": {"bots": "drop", "respect_gpc": True, "respect_dnt": True},
    "narrow": {"excluded_paths": ["/pricing", "/docs/*"], "excluded_ips": ["192.0.2.8", "2001:db8::/32"]},
}
MAX_BODY_BYTES = 65_536
MAX_BATCH_BYTES = 262_144
MOST_EVENTS = 100  # in a batch
MOST_WAITS = 20
TRAILER = b"X-Trailer: t\r\n\r\n"

# Header lines that browsers send through a proxy, without the request line and the length.
_HEADS = [
    [line for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:] if not line.startswith(b"Content-Length")]
    for request in sample_requests(300, seed=8)
]
_EXTRA_LINES: tuple[tuple[bytes, ...], ...] = (
    (b"Origin: https://www.shop.example",),
    (b"Origin: null", b"Referer: http://localhost/x"),
    (b"Origin:  https://a.example ",),
    (b"Origin: \xff\xfe",),
    (b"Referer: http://[::1]:80/",),
    (b"User-Agent: \xff\x80",),
    (b"User-Agent: " + b"u" * 2_000,),
    *((b"Cookie: " + b"c" * size,) for size in (5_000, 9_000, 25_000)),
    (b"X: a", b"X: b", b"x: c"),
    (b"X-Forwarded-For: 192.0.2.7, 192.0.2.8",),
    (b"X-Forwarded-For: 2001:db8::1%eth0, , 192.0.2.8:80",),
    (b"X-Forwarded-For: unknown",),
    (b"Forwarded: for=192.0.2.7, for=192.0.2.8",),
    (b'Forwarded: for="[2001:db8::1]:80";host="a, for=1.1.1.1"', b"Forwarded: for=_x;by=1"),
    (b"X-Real-IP: 192.0.2.8",),
    (b"CF-Connecting-IP: 2001:db8::1", b"CF-Connecting-IP: 192.0.2.8"),
    (b"User-Agent: Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",),
    (b"DNT: 1",),
    (b"Sec-GPC: 0", b"Sec-GPC: 1"),
    (b"Content-Encoding: identity",),
    (b"Content-Encoding: gzip",),
    (b"Content-Encoding: br",),
    (b"Authorization: Bearer wrong",),
    (b"Authorization: Bearer",),
    (b"Authorization: Basic YTpi",),
    *((b"Authorization: Bearer " + KEY.encode(),),) * 3,
    (b"Idempotency-Key:",),
    (b"Idempotency-Key: " + b"k" * 129,),
    (b"Content-Encoding: gzip, br",),
    (b"Access-Control-Request-Headers: x-a, x-b",),
    (b"Expect: 100-continue",),
    (b"Connection: keep-alive",),
    *(tuple(b"X-%d: v" % n for n in range(lines)) for lines in (30, 70)),
)
_KEY = re.compile(rb"Idempotency-Key: fz-[^\r]+")
PIXEL_VALUES = ("1", "-2.5e3", "1e999", "NaN", "true", "0", "", "x y", "\u00e9", "\0", "null", "9" * 400)
_METHODS = ("GET", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH")


class End(Enum):
    """How a client ends the connection."""

    HALF_CLOSE = "half-close"  # it sends nothing more, but keeps reading
    RESET = "reset"
    SLAM = "slam"  # it closes without reading
    STAY = "stay"  # it waits until the collector closes


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `status`: the expected one, if known; `closes`: no request after it gets a response.

    `names`: those of its events. `stored`: the names of those that a batch's answer must call stored, if known.
    `repeats`: the key of the batch was used before, so that nothing is stored.
    """

    names: tuple[str, ...]
    data: bytes
    status: int | None = None
    closes: bool = False
    stored: tuple[str, ...] | None = None
    is_batch: bool = False
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. `intact`: the number of unmutated requests before the first mutated one."""

    number: int
    requests: list[Request]
    intact: int
    pieces: list[bytes]
    waits: list[bool]  # whether to pause after each piece
    end: End

    @property
    def is_wild(self) -> bool:
        return self.intact < len(self.requests)

    @property
    def sent(self) -> bytes:
        return b"".join(self.pieces)


def make(seed: str, number: int) -> Conversation:
    """Make the conversation with that number."""
    random = Random(f"{seed} {number}")
    requests: list[Request] = []
    for place in range(random.choice((1, 1, 2, 3, 3, 4, 6))):
        requests.append(_request(random, number, place))
        if requests[-1].closes:
            break
        repeated = _repeat(random, requests[-1], number, place)
        if repeated is not None:
            requests.append(repeated)
    end = random.choices(list(End), (92, 4, 3.9, 0.1))[0]
    intact = len(requests)
    datas = [request.data for request in requests]
    # Clients that reset do not see every 201. Their requests stay intact, so that their rows can be identified.
    if random.random() < 0.6 and end not in (End.RESET, End.SLAM):
        intact = random.randrange(len(requests))
        datas[intact] = mutate(random, datas[intact])
    pieces = _cut(random, datas)
    # Few enough pauses to fit into the 2 s for which the collector reads the unused rest of a body.
    waits = [place < MOST_WAITS and random.random() < 0.3 for place in range(len(pieces))]
    return Conversation(number, requests, intact, pieces, waits, end)


def _cut(random: Random, datas: list[bytes]) -> list[bytes]:
    """Split the bytes into pieces to send: request by request, all at once, or cut anywhere."""
    if random.random() < 0.4:
        return datas
    data = b"".join(datas)
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice((0, 0, 1, 2, 5))))
    if random.random() < 0.02:
        cuts = list(range(min(len(data), 300)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]


def _request(random: Random, number: int, place: int) -> Request:
    site = random.choice(("open", "open", "open", "strict", "off", "listed", "keyed", "narrow", "humans", "nobody"))
    method = "POST" if random.random() < 0.95 else random.choice(_METHODS)
    name = identity(number, place)
    if random.random() < 0.06:
        return _pixel(random, site, name)
    batch = _batch(random, number, place) if random.random() < 0.25 else None
    if batch is None:
        target = f"/public/{site}/{random.choice(('analytics/collect', 'e'))}"
        body, known = make_body(random, name)
    else:
        target = f"/public/{site}/batch"
        body, known = batch.data, batch.stored is not None
    status = _status(site, body) if batch is None else _status_of_batch(site, batch)
    stored = None if batch is None else batch.stored
    lines = list(random.choice(_HEADS)) if random.random() < 0.7 else [b"Host: collector.example"]
    plain = known and site in ("open", "strict", "keyed") and method == "POST"
    if batch is not None and random.random() < 0.4:
        lines.append(b"Idempotency-Key: %b%b" % (name.encode(), random.choice((b"", b"", b"\xff"))))
    if random.random() < (0.05 if batch is None else 0.3):
        lines = [line for line in lines if not line.startswith(b"Content-Encoding")] + [b"Content-Encoding: gzip"]
        body = gzip.compress(body, 1, mtime=0)
        if random.random() < 0.2:
            body = _broken_gzip(random, body)
            plain = False
    if random.random() < 0.25:
        extra = random.choice(_EXTRA_LINES)
        fields = {line.partition(b":")[0] for line in extra}
        lines = [line for line in lines if line.partition(b":")[0] not in fields] + list(extra)
        plain = False
    version, closes = b"1.1", False
    match random.randrange(40):
        case 0:
            target, plain = (
                random.choice(
                    ("/", f"{target}?q={name}", f"http://x{target}", target[:-1], f"{target}/", f"{target}//")
                ),
                False,
            )
        case 1:
            version, closes = b"1.0", True
        case 2:
            lines.append(b"Connection: close")
            closes = True
        case 3:
            sizes = (MAX_BODY_BYTES - 1, MAX_BODY_BYTES + 1, MAX_BATCH_BYTES + 1, 300_000)
            body, plain, closes = bytes(random.choice(sizes)), False, True
    if len(body) > UNREAD_KEPT_BYTES:
        closes = True  # a response that does not wait for the body closes the connection
    first = b"%b %b HTTP/%b" % (method.encode(), target.encode(), version)
    if version == b"1.1" and random.random() < 0.12:
        lines.append(b"Transfer-Encoding: chunked")
        framed = _chunked(random, body)
        # A response that does not wait for a chunked body closes, because the body's length is unknown. So do trailers.
        closes = closes or not plain or framed.endswith(TRAILER)
    else:
        lines.append(b"Content-Length: %d" % len(body))
        framed = body
    data = b"\r\n".join((first, *lines, b"", b"")) + framed
    if random.random() < 0.02:
        data = b"\r\n" + data
    names = (name,) if batch is None else batch.names
    return Request(names, data, status if plain else None, closes, stored if plain else None, batch is not None)


def _pixel(random: Random, site: str, name: str) -> Request:
    """A pixel, which always gets a 200. Its answer says whether its event is stored."""
    fields = {"session_id": name, "visitor_id": name}
    for field in random.sample(FIELDS, random.choice((0, 1, 3))):
        value = random.choice(SAMPLES).get(field)
        fields.setdefault(field, value if isinstance(value, str) else random.choice(PIXEL_VALUES))
    method = random.choice(("GET", "GET", "GET", "HEAD"))
    lines = list(random.choice(_HEADS)) if random.random() < 0.5 else [b"Host: collector.example"]
    if random.random() < 0.3:
        lines += [b"DNT: 1", b"Sec-GPC: 1"][: random.randrange(3)]
    first = f"{method} /public/{site}/p.gif?{urlencode(fields, errors='replace')} HTTP/1.1".encode()
    return Request((name,), b"\r\n".join((first, *lines, b"", b"")), 200)


def _batch(random: Random, number: int, place: int) -> Batch:
    count = MOST_EVENTS if random.random() < 0.01 else random.choice((0, 1, 2, 3, 5, 8))
    return make_batch(random, tuple(identity(number, 1_000 * (place + 1) + index) for index in range(count)))


def _repeat(random: Random, request: Request, number: int, place: int) -> Request | None:
    """Return a batch with the key of the last one, for one in three that has a key."""
    key = _KEY.search(request.data)
    if key is None or request.status is None or random.random() < 0.67:
        return None
    if request.stored and random.random() < 0.5:  # another batch: it gets the answer to the first one
        other = _batch(random, number, 100 + place)
        head = request.data.lstrip().partition(b" HTTP/")[0]
        lines = (head + b" HTTP/1.1", b"Host: a", key[0], b"Content-Length: %d" % len(other.data), b"", other.data)
        return replace(request, names=other.names, data=b"\r\n".join(lines), repeats=True)
    return replace(request, repeats=bool(request.stored))


def _broken_gzip(random: Random, packed: bytes) -> bytes:
    at = random.randrange(len(packed))
    return random.choice(
        (
            packed[:at],
            packed[:at] + bytes([packed[at] ^ 1 << random.randrange(8)]) + packed[at + 1 :],
            packed + packed,
            packed + b"\0",
            gzip.compress(bytes(10_000_000), 1, mtime=0),
            b"",
        )
    )


def _status(site: str, body: bytes) -> int:
    """Return the status for a body on a site without exclusions."""
    if row_of(body, NOON_US) is not None:
        return 201
    return 422 if site == "strict" else 202


def _status_of_batch(site: str, batch: Batch) -> int:
    """Return the status for a batch on a site without exclusions."""
    if batch.stored and len(batch.stored) == len(batch.names):
        return 201
    return 422 if site == "strict" else 202


def _chunked(random: Random, body: bytes) -> bytes:
    framed, at = b"", 0
    while at < len(body):
        size = random.choice((1, 7, 100, 1_000, len(body)))
        piece = body[at : at + size]
        length = random.choice(("%x", "%X", "000%x")) % len(piece)
        framed += b"%b%b\r\n%b\r\n" % (length.encode(), random.choice((b"", b"", b";a=b")), piece)
        at += size
        if len(framed) > 2 * len(body) + 5_000:  # a large body in tiny chunks: send it as one chunk instead
            framed, at = b"%x\r\n%b\r\n" % (len(body), body), len(body)
    return framed + b"0\r\n" + random.choice((b"\r\n", b"\r\n", TRAILER))
