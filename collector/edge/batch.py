"""Batches: many events in one request, a JSON array or NDJSON.

Each event is judged by itself. All that are stored are in one commit of the journal, which a crash leaves whole or not
at all. The answer says which were not stored, and why.

Reading a batch takes longer than one turn of the event loop may. So its events are judged in slices, one batch after
the other, and only one batch at a time is in memory unpacked.

With an `Idempotency-Key`, the answer is remembered for a day (collector/journal/answers.py), so that a sender whose
answer was lost can send the batch again.
"""

import asyncio
import gc
import hashlib
import logging
from collections import Counter
from time import perf_counter

from collector.clock import Clock
from collector.edge import responses
from collector.edge.batch_answer import MAX_EVENTS, MAX_KEY_CHARACTERS, Answer, Verdicts, unread
from collector.edge.content_coding import NOT_GZIP, BrokenCoding, UnpackedTooLarge, unpack
from collector.edge.invalid_events import InvalidEvents
from collector.edge.opt_out import not_opted_out
from collector.edge.outcomes import too_large, unavailable
from collector.edge.rate_limit import too_many
from collector.edge.request import Request
from collector.edge.responses import Response
from collector.edge.rules import Rules
from collector.edge.split import Bodies, split
from collector.events import Dropped, Event, FieldError, Reason, Refused
from collector.ingest.daily_key import KeyMissing
from collector.ingest.pipeline import accept, ip_not_excluded, not_bot, not_localhost, tracking_enabled
from collector.ingest.schema import InvalidEvent
from collector.ingest.sender import accept_from_sender
from collector.journal.answers import AnswerStore, InProgress
from collector.journal.journal import Journal
from collector.journal.submission import AwaitedBatch
from collector.metrics import Metrics
from collector.threads import CallThread

log = logging.getLogger(__name__)

KEY_DIGEST_BYTES = 16

# How long a slice of a batch may hold the event loop. Other requests wait that long in each turn.
# Not less than GIL_SWITCH_S of the worker: the threads of the journal would then hardly get the GIL between the slices.
SLICE_S = 0.0015

# The size of all batches that wait for their turn, as they were received: 16 of the largest.
WAITING_MAX_BYTES = 64 << 20
WAITING_MAX = 256  # a packed batch of 4 KB may take as long as one of 4 MiB: up to 0.1 s


class Slices:
    """Splits long work into slices, between which the event loop serves others."""

    def __init__(self) -> None:
        self._started = perf_counter()

    async def end(self) -> None:
        """End the slice if it is over."""
        if perf_counter() - self._started >= SLICE_S:
            await asyncio.sleep(0)
            self._started = perf_counter()


class RefusedWhole(Exception):
    """The batch is refused, and nothing of it is stored. `dropped`: its events, by reason."""

    def __init__(self, outcome: Refused, dropped: Counter[Reason]) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome
        self.dropped = dropped


class Batches:
    """Takes the batches of one worker. The event loop's thread owns it.

    A batch with its turn pauses the garbage collector of the process. Both end in `_end_turn`, which the journal calls
    once it has let go of the events.
    """

    def __init__(
        self, journal: Journal, invalid_events: InvalidEvents, metrics: Metrics, clock: Clock, answers: AnswerStore
    ) -> None:
        self._journal = journal
        self._invalid_events = invalid_events
        self._metrics = metrics
        self._clock = clock
        self._answers = answers
        # Held until the journal has let go of the events: those of one batch are in memory at a time.
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._waiting_bytes = 0
        self._unpacking = CallThread("unpack")
        self._answering = CallThread("answers")

    async def respond(self, request: Request, body: bytes, rules: Rules) -> Response:
        """Store the batch, count its events, and return the response."""
        if self._waiting >= WAITING_MAX or self._waiting_bytes + len(body) > WAITING_MAX_BYTES:
            return self._refuse(request, RefusedWhole(unavailable(), Counter([Reason.UNAVAILABLE])))
        self._waiting += 1
        self._waiting_bytes += len(body)
        try:
            return await self._respond(request, body, rules)
        except InvalidEvent as exc:
            self._count(request, "refused", 0, Counter([Reason.INVALID]))
            return responses.batch(request.origin, *unread(str(exc), strict=request.site.strict))
        except RefusedWhole as exc:
            return self._refuse(request, exc)
        finally:
            self._waiting -= 1
            self._waiting_bytes -= len(body)

    async def unpack(self, packed: bytes, max_bytes: int) -> bytes:
        """Unpack a body beside the event loop. Raises as `content_coding.unpack`."""
        return await self._unpacking.call(unpack, packed, max_bytes)

    async def _respond(self, request: Request, body: bytes, rules: Rules) -> Response:
        """Raises InvalidEvent and RefusedWhole."""
        key = _key_digest(request)
        if key:
            known = await self._claim(key)
            if known is not None:
                self._metrics.batches.labels("repeated").inc()
                return responses.batch(request.origin, *Answer.from_bytes(known))
        try:
            answer, stored, dropped = await self._store(request, body, rules, key)
        except Exception:
            # Keep the claim if the journal is broken, or if cancelled: the batch may be in its segment although it was
            # not acknowledged. The next start finds out.
            if key and not self._journal.broken.is_set():
                await self._answering.call(self._answers.release, key)
            raise
        if key:
            # A batch of which nothing is stored gets the same answer again without being remembered.
            step = (self._answers.settle, key, answer.to_bytes()) if stored else (self._answers.release, key)
            await self._answering.call(*step)
        self._count(request, ("partial" if dropped else "stored") if stored else "dropped", stored, dropped)
        return responses.batch(request.origin, *answer)

    async def _claim(self, key: bytes) -> bytes | None:
        """The remembered answer to the batch with this key. None: it is new, and this request owns the key."""
        try:
            return await self._answering.call(self._answers.claim, key)
        except InProgress:
            refused = Refused(Reason.UNAVAILABLE, "A batch with this Idempotency-Key is in progress", retry_after_s=1)
            raise RefusedWhole(refused, Counter([Reason.UNAVAILABLE])) from None
        except OSError:  # the store has logged it, once until it works again
            raise RefusedWhole(unavailable(), Counter([Reason.UNAVAILABLE])) from None

    async def _store(
        self, request: Request, body: bytes, rules: Rules, key: bytes
    ) -> tuple[Answer, int, Counter[Reason]]:
        """Return the answer, how many events are stored, and how many are dropped for each reason.

        Raises InvalidEvent and RefusedWhole; then nothing is stored.
        """
        await self._turn.acquire()
        gc.disable()  # each of its passes would look at up to 7,000 young rows, and hold the loop for 6 ms
        is_submitted = False
        try:
            bodies = await self._split(await self._unpacked(request, body, rules.max_batch_bytes))
            self._metrics.batch_events.observe(len(bodies))
            self._pay(request, len(bodies), rules)
            verdicts = await self._judge(request, bodies, rules)
            answer, dropped = verdicts.answer(strict=request.site.strict), verdicts.reasons()
            stored = len(verdicts.stored)
            if not stored:
                return answer, 0, dropped
            refused = RefusedWhole(unavailable(), dropped + Counter({Reason.UNAVAILABLE: stored}))
            if self._journal.unready_reason() is not None:
                raise refused
            submission = AwaitedBatch(verdicts.stored, key, answer.to_bytes() if key else b"", self._end_turn)
            self._journal.submit(submission)
            is_submitted = True
        finally:
            if not is_submitted:
                self._end_turn()
        if not await submission.stored:
            raise refused
        return answer, stored, dropped

    def _end_turn(self) -> None:
        gc.enable()
        self._turn.release()

    async def _unpacked(self, request: Request, body: bytes, max_bytes: int) -> bytes:
        """Raises InvalidEvent and RefusedWhole."""
        if not request.is_packed:
            return body
        try:
            return await self.unpack(body, max_bytes)
        except BrokenCoding:
            raise InvalidEvent(NOT_GZIP) from None
        except UnpackedTooLarge:
            raise RefusedWhole(too_large(max_bytes), Counter([Reason.TOO_LARGE])) from None

    async def _split(self, batch: bytes) -> Bodies:
        """Split the batch, in slices. Raises InvalidEvent, and RefusedWhole for too many."""
        bodies: Bodies = []
        slices = Slices()
        for piece in split(batch):
            bodies += piece
            if len(bodies) > MAX_EVENTS:
                refused = Refused(Reason.TOO_LARGE, f"Batch has more than {MAX_EVENTS} events: split it")
                raise RefusedWhole(refused, Counter({Reason.TOO_LARGE: len(bodies)}))
            await slices.end()
        if not bodies:
            raise InvalidEvent(FieldError(None, "holds no events"))
        return bodies

    def _pay(self, request: Request, events: int, rules: Rules) -> None:
        """Take a token for each event but the first, whose token the check of the request took. Raises RefusedWhole."""
        if request.is_sender:
            return
        buckets = rules.buckets
        dropped = Counter({Reason.RATE_LIMITED: events})
        if events > buckets.limit.burst and buckets.limit.requests_per_minute:
            refused = Refused(Reason.RATE_LIMITED, f"Batch has more than {buckets.limit.burst} events: split it")
            raise RefusedWhole(refused, dropped)
        client = rules.peers.client(request.peer, request.headers)
        wait_ns = buckets.take_rest(client, events)
        if wait_ns:
            raise RefusedWhole(too_many(buckets, wait_ns), dropped)

    async def _judge(self, request: Request, bodies: Bodies, rules: Rules) -> Verdicts:
        """Judge each event, in slices, and empty `bodies`. Raises RefusedWhole if an address cannot be hashed."""
        verdicts = Verdicts([], [])
        ignored = (
            tracking_enabled(request)
            or not_opted_out(request)
            or not_localhost(request)
            or ip_not_excluded(request)
            or not_bot(request)
        )
        now_us = self._clock.now_us()
        slices = Slices()
        for index, body in enumerate(bodies):
            try:
                outcome = ignored or self._judge_one(request, body, rules, now_us)
            except KeyMissing as exc:
                log.warning("a batch was refused: an address cannot be hashed: %s", exc)
                raise RefusedWhole(unavailable(), Counter({Reason.UNAVAILABLE: len(bodies)})) from None
            if isinstance(outcome, Event):
                verdicts.stored.append(outcome)
            else:
                verdicts.dropped.append((index, outcome))
            bodies[index] = b""  # freeing 10,000 bodies at once would take 2 ms
            await slices.end()
        return verdicts

    def _judge_one(self, request: Request, body: bytes, rules: Rules, now_us: int) -> Event | Dropped:
        if len(body) > rules.max_body_bytes:
            return too_large(rules.max_body_bytes)
        outcome: Event | Dropped
        if request.is_sender:
            outcome = accept_from_sender(request.site, body, now_us, rules.retention_days, rules.client_ip)
        else:
            outcome = accept(request, body, now_us, rules.client_ip)
        if not isinstance(outcome, Event) and outcome.reason is Reason.INVALID:
            self._invalid_events.keep(request, now_us, outcome.message, body)
        return outcome

    def _refuse(self, request: Request, refused: RefusedWhole) -> Response:
        self._count(request, "refused", 0, refused.dropped)
        return responses.dropped(request.origin, refused.outcome)

    def _count(self, request: Request, outcome: str, stored: int, dropped: Counter[Reason]) -> None:
        self._metrics.batches.labels(outcome).inc()
        assert request.counts is not None  # its site is known
        request.counts.count_batch(stored, dropped)


def _key_digest(request: Request) -> bytes:
    """The digest of the request's Idempotency-Key, which holds for its site. Empty if it has none.

    Senders with a key have Idempotency-Keys of their own. Otherwise anyone could send `orders-2026-05-12` before they
    do: they would get the answer to that batch, and theirs would not be stored.
    """
    text = request.headers.get("idempotency-key")
    if text is None:
        return b""
    if not 1 <= len(text) <= MAX_KEY_CHARACTERS:
        raise InvalidEvent(FieldError("Idempotency-Key", f"must have 1 to {MAX_KEY_CHARACTERS} characters"))
    separator = b"\0\0" if request.is_sender else b"\0"  # no header holds a zero byte
    named = request.site.id.encode() + separator + text.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(named, digest_size=KEY_DIGEST_BYTES).digest()
