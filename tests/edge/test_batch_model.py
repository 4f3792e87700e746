"""A model of batches: whatever is sent, the answers, the metrics and the rows agree, and count events.

Hypothesis makes sequences of batches: of any mix of events, forms and sizes, packed and broken, with and without an
Idempotency-Key and a sender's key, against low limits and a small bucket. The model says what each answer must be.
"""

import asyncio
import gzip
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.edge import batch as batches
from collector.sender_keys import fingerprint
from tests.crash.conftest import times
from tests.edge.wire import Answer, Wire, request, tally
from tests.support import FakeClock, body, config, running

KEY = "ck_of-a-sender"
SITES: dict[str, dict[str, Any]] = {
    "plain": {"excluded_paths": ["/private"]},
    "strict": {"strict": True, "excluded_paths": ["/private"]},
    "keyed": {"keys": [fingerprint(KEY)], "excluded_paths": ["/private"]},
    "off": {"tracking": False},
}
BURST, MAX_EVENTS, MAX_BODY_BYTES, MAX_BATCH_BYTES = 12, 15, 1_000, 4_000
EXAMPLES = times(short=50, long=1_000)

KINDS = {
    "stored": None,
    "invalid": b'{"session_id": 1}',
    "excluded_path": body(page_path="/private"),
    "too_large": body(page_title="x" * MAX_BODY_BYTES),
}


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch request. `kinds` are the reasons of its events."""

    site: str
    kinds: list[str]
    is_array: bool
    packed: str  # "no", "yes" or "broken"
    is_cut: bool
    key: str | None
    authorization: str | None

    def data(self, first: int) -> bytes:
        """Its events are numbered from `first`."""
        bodies = [KINDS[kind] or body(session_id=str(first + index)) for index, kind in enumerate(self.kinds)]
        joined = b"[" + b",".join(bodies) + b"]" if self.is_array else b"\n\n".join(bodies)
        return joined[:-1] if self.is_cut else joined

    @property
    def is_sender(self) -> bool:
        """Whether it has the site's key. Such senders have Idempotency-Keys of their own."""
        return self.site == "keyed" and self.authorization == KEY

    def request(self, data: bytes) -> bytes:
        """The complete request."""
        lines = []
        if self.packed != "no":
            lines.append(b"Content-Encoding: gzip")
            data = gzip.compress(data)[: None if self.packed == "yes" else -3]
        if self.key is not None:
            lines.append(b"Idempotency-Key: " + self.key.encode())
        if self.authorization is not None:
            lines.append(b"Authorization: Bearer " + self.authorization.encode())
        return request(data, *lines, target=f"/public/{self.site}/batch")


# One too many at most: a larger batch is given up somewhere after that one, and the rest is not counted.
kind = st.sampled_from(["stored", "stored", *KINDS])
kinds = st.lists(kind, max_size=3) | st.lists(kind, max_size=MAX_EVENTS + 1)
sent = st.builds(
    Sent,
    site=st.sampled_from(["keyed", *SITES]),
    kinds=kinds,
    is_array=st.booleans(),
    packed=st.sampled_from(["no", "no", "yes", "broken"]),
    is_cut=st.sampled_from([False, False, False, True]),
    key=st.sampled_from([None, "one", "one", "two"]),
    authorization=st.sampled_from([None, KEY, KEY, KEY, "wrong"]),
)


@dataclass(slots=True)
class Model:
    """What a collector must answer and store. Time stands still, so no token comes back."""

    tokens: int = BURST
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)  # by site, and reason or "stored"
    rows: list[str] = field(default_factory=list)
    remembered: dict[tuple[str, bool, str], tuple[Any, ...]] = field(default_factory=dict)

    def answer(self, sent: Sent, data: bytes, packed_bytes: int, first: int) -> tuple[Any, ...]:
        """Return what `seen` must return."""
        is_sender = sent.is_sender
        if not is_sender:
            if not self.tokens:
                return self._refused(sent, 429, "rate_limited", 1)
            self.tokens -= 1
        if sent.site == "keyed" and sent.authorization == "wrong":
            return self._refused(sent, 401, "unauthorized", 1)
        if packed_bytes > MAX_BATCH_BYTES:
            return self._refused(sent, 413, "too_large", 1)
        if sent.key is not None and (sent.site, is_sender, sent.key) in self.remembered:
            return self.remembered[sent.site, is_sender, sent.key]
        if len(data) > MAX_BATCH_BYTES:
            return self._refused(sent, 413, "too_large", 1)
        if sent.packed == "broken":
            return self._unread(sent)
        reasons = list(sent.kinds)
        if sent.is_cut and reasons:
            if sent.is_array:
                return self._unread(sent)
            reasons[-1] = "too_large" if reasons[-1] == "too_large" else "invalid"
        if not reasons:
            return self._unread(sent)
        if len(reasons) > MAX_EVENTS:
            return self._refused(sent, 413, "too_large", len(reasons))
        if not is_sender:
            if len(reasons) > BURST or len(reasons) - 1 > self.tokens:
                return self._refused(sent, 429, "rate_limited", len(reasons))
            self.tokens -= len(reasons) - 1
        if sent.site == "off":
            reasons = ["tracking_disabled"] * len(reasons)
        return self._judged(sent, reasons, first)

    def _refused(self, sent: Sent, status: int, reason: str, events: int) -> tuple[Any, ...]:
        self.counts[sent.site, reason] += events
        return status, reason

    def _unread(self, sent: Sent) -> tuple[Any, ...]:
        self.counts[sent.site, "invalid"] += 1
        return 422 if sent.site == "strict" else 202, "invalid", 0, 1, []

    def _judged(self, sent: Sent, reasons: list[str], first: int) -> tuple[Any, ...]:
        self.counts.update((sent.site, reason) for reason in reasons)
        self.rows += [str(first + index) for index, reason in enumerate(reasons) if reason == "stored"]
        dropped = [(index, reason) for index, reason in enumerate(reasons) if reason != "stored"]
        stored = len(reasons) - len(dropped)
        if not dropped:
            answer: tuple[Any, ...] = (201, None, stored, 0, [])
        else:
            answer = (422 if sent.site == "strict" else 202, dropped[0][1], stored, len(dropped), dropped)
        if sent.key is not None and stored:
            self.remembered[sent.site, sent.is_sender, sent.key] = answer
        return answer


def seen(answer: Answer) -> tuple[Any, ...]:
    """The answer as the model gives it."""
    if answer.status not in (201, 202, 422):
        return answer.status, answer.reason
    said = answer.json
    errors = [(each["index"], each["reason"]) for each in said.get("errors", [])]
    return answer.status, answer.reason, said["stored"], said.get("dropped", 0), errors


async def converse(data_dir: Path, requests: list[Sent], *, fast_path: bool) -> None:
    """Send the requests one after the other, and compare with the model."""
    server = {"max_body_bytes": MAX_BODY_BYTES, "max_batch_bytes": MAX_BATCH_BYTES, "fast_path": fast_path}
    limit = {"requests_per_minute": 60, "burst": BURST}
    model, first = Model(), 0
    async with running(config(data_dir, SITES, server=server, rate_limit=limit), FakeClock()) as collector:
        for each in requests:
            wire = Wire(*await asyncio.open_connection(collector.host, collector.port))
            data = each.data(first)
            message = each.request(data)
            packed_bytes = len(message.partition(b"\r\n\r\n")[2])
            assert model.answer(each, data, packed_bytes, first) == seen(await wire.ask(message))
            wire.close()
            first += len(each.kinds)
        for site in SITES:
            expected = {name: count for (at, name), count in model.counts.items() if at == site and count}
            received = {"received": sum(expected.values())} if expected else {}
            assert received | expected == tally(collector, site)
        await collector.flush()
        assert sorted(model.rows) == sorted(row["session_id"] for site in SITES for row in collector.rows(site))


@pytest.mark.parametrize("fast_path", [True, False])
def test_answers_metrics_and_rows_agree(monkeypatch: pytest.MonkeyPatch, fast_path: bool) -> None:
    monkeypatch.setattr(batches, "MAX_EVENTS", MAX_EVENTS)

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(sent, min_size=1, max_size=8))
    def check(requests: list[Sent]) -> None:
        with TemporaryDirectory() as folder:
            asyncio.run(converse(Path(folder), requests, fast_path=fast_path))

    check()
