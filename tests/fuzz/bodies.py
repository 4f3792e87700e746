"""Bodies: events of all twenty types, valid, or with broken members or bytes, batches, and the identities in them.

An identity is unique and has a checksum. A mutation may destroy one, but cannot turn it into another.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

from bench.sample import bodies as sample_bodies
from collector.events import CONTRACT
from tests.ingest.oracle import row_of
from tests.ingest.test_hostile import NASTY, NOT_UTF8
from tests.support import NOON_US

SAMPLES: list[dict[str, Any]] = [json.loads(body) for body in sample_bodies(500, seed=8)]
FIELDS = tuple(CONTRACT["properties"])
UNKNOWN = ("", "x", "Lcp", "site_id", "received_at", "event_time_raw", "__proto__", r"\ud83d", r"\u0000", "k" * 3_000)
SPACE = (b" ", b"\r\n", b"\t\r\n ", b"\n" * 200)

NO_EVENTS = (b"{}", b"7", b"null", b'"x"', b"[]", b'{"session_id": 1}')

_IDENTITY = re.compile(r"fz-([0-9a-f]+)-[0-9]+-([0-9a-f]{8})")


def identity(conversation: int, request: int) -> str:
    """Return the identity of one request."""
    plain = f"fz-{conversation:x}-{request}"
    return f"{plain}-{crc32(plain.encode()):08x}"


def conversation_of(texts: Iterable[str | None]) -> tuple[int, str] | None:
    """Find an identity among the texts; return its conversation and itself, or None if all were destroyed."""
    for text in texts:
        match = _IDENTITY.fullmatch(text or "")
        if match and crc32(match[0][:-9].encode()) == int(match[2], 16):
            return int(match[1], 16), match[0]
    return None


def make_body(random: Random, name: str, most: float = 1) -> tuple[bytes, bool]:
    """Make a body whose session and visitor have that name, unless a mutation destroys it.

    Also returns whether its outcome is known. It is not for broken bytes, because ujson accepts some invalid JSON.
    `most`: 0.45 allows no mutation, and 0.7 no broken bytes.
    """
    event = random.choice(SAMPLES) | {"session_id": name, "visitor_id": name}
    kind = random.uniform(0, most)
    if kind < 0.45:
        return json.dumps(event, ensure_ascii=random.random() < 0.5).encode(), True
    data = _written(_broken_members(random, event)) if kind < 0.8 else json.dumps(event).encode()
    return (data, True) if kind < 0.7 else (_broken_bytes(random, data), False)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. `stored`: the names of its valid events; None if that is not known."""

    data: bytes
    names: tuple[str, ...]
    stored: tuple[str, ...] | None


def make_batch(random: Random, names: tuple[str, ...]) -> Batch:
    """Make a batch with an event of each name: an array, or NDJSON."""
    made = [_make_element(random, name) for name in names] if random.random() < 0.5 else None
    if made is not None:
        data = random.choice((b"", *SPACE)) + b"[" + b" ,\n".join(body for body, _ in made) + b"]"
    else:
        made = [make_body(random, name, most=0.7 if random.random() < 0.95 else 1) for name in names]
        data = random.choice((b"\n", b"\r\n", b"\n \t\n")).join(body for body, _ in made)
    known = all(is_known and b"\n" not in body for body, is_known in made)
    stored = tuple(name for name, (body, _) in zip(names, made, strict=True) if row_of(body, NOON_US) is not None)
    return Batch(data, names, stored if known else None)


def _make_element(random: Random, name: str) -> tuple[bytes, bool]:
    """Make an element of an array. Broken bytes in one break the array."""
    kind = random.random()
    if kind < 0.8:
        return make_body(random, name, most=0.45)
    if kind < 0.98:
        return random.choice(NO_EVENTS), True
    return make_body(random, name)[0], False


def _broken_members(random: Random, event: dict[str, Any]) -> list[tuple[str, str]]:
    """Return names and JSON values, with nasty values, unknown names, and members repeated, removed or reordered."""
    members = [(field, json.dumps(value)) for field, value in event.items()]
    for _ in range(random.randint(1, 3)):
        match random.randrange(6):
            case 0 | 1 | 2:
                members.append((random.choice(FIELDS), random.choice(NASTY)))
            case 3:
                members.append((random.choice(UNKNOWN), random.choice(NASTY)))
            case 4:
                members.append(random.choice(members))
            case _:
                del members[random.randrange(len(members))]
    if random.random() < 0.3:
        random.shuffle(members)
    return members


def _written(members: list[tuple[str, str]]) -> bytes:
    text = ",".join(f'"{name}":{value}' for name, value in members)
    return ("{" + text + "}").encode("utf-8", "surrogateescape")


def _broken_bytes(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    match random.randrange(9):
        case 0:
            return b"\xef\xbb\xbf" + data
        case 1:
            return data[:at]
        case 2:
            return data + random.choice((b"x", b"{}", b"\0", b"]", b",", b"\xef\xbb\xbf", data))
        case 3:
            return data[:at] + random.choice(NOT_UTF8) + data[at:]
        case 4:
            return random.choice(SPACE) + data + random.choice(SPACE)
        case 5:
            return random.choice(
                (
                    b"",
                    b"{}",
                    b"[]",
                    b"null",
                    b"0",
                    b'""',
                    b"[" + data + b"]",
                    data.decode("utf-8", "replace").encode("utf-16"),
                )
            )
        case 6:
            return random.randbytes(random.randrange(60))
        case 7:
            return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        case _:
            return data[:at] + data[at + random.randint(1, 9) :]
