"""The answer to a batch: how many of its events are stored, and why the others are not."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import ujson

from collector.events import Dropped, Event, Reason

MAX_EVENTS = 10_000
MAX_ERRORS = 100  # that an answer explains
MAX_KEY_CHARACTERS = 128


class Answer(NamedTuple):
    """The answer to a batch that was read. `body` is JSON."""

    status: int
    reason: str | None
    body: bytes

    def to_bytes(self) -> bytes:
        """A line with the status and the reason, if any, and then the body. Segments and answers.sqlite keep it so."""
        return b"%d %s\n%s" % (self.status, (self.reason or "").encode(), self.body)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Answer":
        """The opposite of `to_bytes`."""
        head, _, body = data.partition(b"\n")
        status, _, reason = head.partition(b" ")
        return cls(int(status), reason.decode() or None, body)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What becomes of the events of a batch. `dropped` has the index, counted from 0, and the outcome of each."""

    stored: list[Event]
    dropped: list[tuple[int, Dropped]]

    def answer(self, *, strict: bool) -> Answer:
        """The answer once the accepted events are stored."""
        if not self.dropped:
            return Answer(201, None, _to_json({"message": "Batch received", "stored": len(self.stored)}))
        content: dict[str, Any] = {
            "message": f"{len(self.stored)} of {len(self.stored) + len(self.dropped)} events stored",
            "stored": len(self.stored),
            "dropped": len(self.dropped),
            "errors": [
                {"index": index, "reason": outcome.reason.value, "message": outcome.message}
                for index, outcome in self.dropped[:MAX_ERRORS]
            ],
        }
        if len(self.dropped) > MAX_ERRORS:
            content["dropped_indexes"] = [index for index, _ in self.dropped]
        return Answer(422 if strict else 202, self.dropped[0][1].reason.value, _to_json(content))

    def reasons(self) -> Counter[Reason]:
        return Counter(outcome.reason for _, outcome in self.dropped)


def unread(message: str, *, strict: bool) -> Answer:
    """The answer to a batch that cannot be read. It counts as one invalid event."""
    content = {"message": message, "stored": 0, "dropped": 1, "errors": []}
    return Answer(422 if strict else 202, Reason.INVALID.value, _to_json(content))


def _to_json(content: dict[str, Any]) -> bytes:
    return ujson.dumps(content, ensure_ascii=False, escape_forward_slashes=False).encode()
