"""Batches for the crash tests: arrays and NDJSON; some are packed, have an Idempotency-Key, or hold broken events."""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support import event
from tests.system.wire import Reply

BROKEN = b'{"session_id": 1}'
USUAL_EVENTS, MANY_EVENTS = 12, 300  # many: more than a segment of the tests takes


@dataclass(slots=True, eq=False)
class SentBatch:
    """A batch: the session ids of its valid events, in order, and the indexes of its broken ones."""

    session_ids: list[str]
    broken: list[int]
    request: bytes
    key: str | None

    def problem_with(self, reply: Reply) -> str | None:
        """Return what is wrong with the answer to a batch that was read, or None."""
        said = json.loads(reply.body)
        indexes = [each["index"] for each in said.get("errors", ())]
        expected = (202 if self.broken else 201, len(self.session_ids), len(self.broken), self.broken)
        got = (reply.status, said["stored"], said.get("dropped", 0), indexes)
        return None if expected == got else f"{got} was answered instead of {expected}"


def make_batch(site: str, next_id: Callable[[], str], key: str | None) -> SentBatch:
    """Make a batch of a random form and size, with up to two broken events."""
    count = MANY_EVENTS if random.random() < 0.01 else random.randint(1, USUAL_EVENTS)
    session_ids = [next_id() for _ in range(count)]
    bodies = [one_event(session_id) for session_id in session_ids]
    broken = sorted(random.sample(range(count + 2), random.choice((0, 0, 0, 1, 2))))
    for index in broken:
        bodies.insert(index, BROKEN)
    broken = [index for index, body in enumerate(bodies) if body is BROKEN]
    data = b"[" + b",".join(bodies) + b"]" if random.random() < 0.5 else b"\n".join(bodies)
    return SentBatch(session_ids, broken, batch_request(site, data, key, packed=random.random() < 0.3), key)


def large_batch(site: str, session_ids: list[str], key: str) -> SentBatch:
    """Make a batch of valid events of 1 KB. 700 of them are more than one write to the segment."""
    data = b"\n".join(json.dumps(event(session_id=each, page_referrer=900 * "x")).encode() for each in session_ids)
    return SentBatch(session_ids, [], batch_request(site, data, key), key)


def one_event(session_id: str) -> bytes:
    """Return an event of 150 to 1,050 bytes."""
    made: dict[str, Any] = event(session_id=session_id, page_referrer=random.randint(0, 900) * "x")
    return json.dumps(made).encode()


def batch_request(site: str, data: bytes, key: str | None, *, packed: bool = False) -> bytes:
    """Return a complete batch request."""
    lines = [f"POST /public/{site}/batch HTTP/1.1", "Host: test"]
    if packed:
        data = gzip.compress(data, 1)
        lines.append("Content-Encoding: gzip")
    if key is not None:
        lines.append(f"Idempotency-Key: {key}")
    return "\r\n".join((*lines, f"Content-Length: {len(data)}", "", "")).encode() + data
