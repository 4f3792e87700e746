"""Bodies: events of all twenty types, valid, or with broken members or bytes; and the identities in them.

An identity is unique and has a checksum. A mutation may destroy one, but cannot turn it into another.
"""

import json
import re
from collections.abc import Iterable
from random import Random
from typing import Any
from zlib import crc32

from bench.sample import bodies as sample_bodies
from collector.events import CONTRACT
from tests.ingest.test_hostile import NASTY, NOT_UTF8

SAMPLES: list[dict[str, Any]] = [json.loads(body) for body in sample_bodies(500, seed=8)]
FIELDS = tuple(CONTRACT["properties"])
UNKNOWN = ("", "x", "Lcp", "site_id", "received_at", "event_time_raw", "__proto__", r"\ud83d", r"\u0000", "k" * 3_000)
SPACE = (b" ", b"\r\n", b"\t\r\n ", b"\n" * 200)

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


def make_body(random: Random, name: str) -> tuple[bytes, bool]:
    """Make a body whose session and visitor have that name, unless a mutation destroys it.

    Also returns whether its outcome is known. It is not for broken bytes, because ujson accepts some invalid JSON.
    """
    event = random.choice(SAMPLES) | {"session_id": name, "visitor_id": name}
    kind = random.random()
    if kind < 0.45:
        return json.dumps(event, ensure_ascii=random.random() < 0.5).encode(), True
    data = _written(_broken_members(random, event)) if kind < 0.8 else json.dumps(event).encode()
    return (data, True) if kind < 0.7 else (_broken_bytes(random, data), False)


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
