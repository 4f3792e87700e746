"""A collector without HTTP, disk or waits: it remembers the answers to Idempotency-Keys, and fails when told to."""

import asyncio
import json
from collections.abc import Iterable
from enum import Enum

from collector.cli.importing.answers import Answer
from collector.cli.importing.sender import Request, Unanswered


class Fault(Enum):
    """What happens to one request."""

    NONE = "none"
    LOST_REQUEST = "the connection breaks before the events are stored"
    LOST_ANSWER = "the connection breaks after the events are stored"
    BUSY = "503"
    LIMITED = "429 with Retry-After"
    WRONG = "401"
    STOP_BEFORE = "the run is stopped before the events are stored"
    STOP_AFTER = "the run is stopped after the events are stored"


class InstantClock:
    """Waits end at once. `waits` has their seconds."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now_us(self) -> int:
        return 1_780_000_000_000_000

    def monotonic_ns(self) -> int:
        return int(sum(self.waits) * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


class FakeCollector:
    """Stores every line that does not begin with `bad`."""

    def __init__(self, faults: Iterable[Fault] = (), bucket: int = 10_000, body_bytes: int = 10_000_000) -> None:
        self.stored: list[bytes] = []
        self.requests: list[Request] = []
        self._faults = iter(faults)
        self._bucket = bucket
        self._body_bytes = body_bytes
        self._answers: dict[str, Answer] = {}

    async def post(self, request: Request) -> Answer:
        self.requests.append(request)
        fault = next(self._faults, Fault.NONE)
        match fault:
            case Fault.BUSY:
                return refused(503, "Busy")
            case Fault.LIMITED:
                return refused(429, "Too many requests", {"retry-after": "2"})
            case Fault.WRONG:
                return refused(401, "Unknown key")
            case Fault.LOST_REQUEST:
                raise Unanswered("gone")
            case Fault.STOP_BEFORE:
                raise asyncio.CancelledError
        answer = self._answers.get(request.key) or self._judge(request)
        if fault is Fault.LOST_ANSWER:
            raise Unanswered("gone")
        if fault is Fault.STOP_AFTER:
            raise asyncio.CancelledError
        return answer

    def _judge(self, request: Request) -> Answer:
        lines = request.body.splitlines()
        if len(lines) > self._bucket:
            return refused(429, "Split the batch")
        if len(request.body) > self._body_bytes:
            return refused(413, "Too large")
        bad = [index for index, line in enumerate(lines) if line.startswith(b"bad")]
        self.stored += [line for line in lines if not line.startswith(b"bad")]
        self._answers[request.key] = answer(len(lines) - len(bad), bad)
        return self._answers[request.key]


def answer(stored: int, bad: list[int]) -> Answer:
    errors = [{"index": index, "reason": "invalid", "message": "bad"} for index in bad]
    tree = {"message": "m", "stored": stored} | ({"dropped": len(bad), "errors": errors} if bad else {})
    return Answer(202 if bad else 201, {}, json.dumps(tree).encode())


def refused(status: int, message: str, headers: dict[str, str] | None = None) -> Answer:
    tree = {"message": message, "errors": [{"message": message, "code": "x"}]}
    return Answer(status, headers or {}, json.dumps(tree).encode())
