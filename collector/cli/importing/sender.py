"""Sends a batch until every event of it is judged: waits and sends it again, or sends it in halves.

The halves of a batch are always the same, so they have the same keys in a run that is repeated.
"""

import gzip
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count

from collector.cli.importing.answers import Again, Answer, Hopeless, Judged, TooMuch, verdict
from collector.cli.importing.batches import NotStored, body_of, key_of
from collector.cli.ndjson import Line
from collector.clock import Clock

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0

# Until a request of the run is answered, the address may be wrong. A restart of the collector takes less time.
UNANSWERED_PATIENCE_S = 30.0
UNANSWERED_WAIT_S = 5.0

# Level 1 packs events to a sixth, at 220 MB/s. Level 6 takes twice as long for a fifth less.
_GZIP_LEVEL = 1


class Unanswered(Exception):
    """No answer came. Whether the events were stored is not known. The message says why."""


class GaveUp(Exception):
    """The import cannot go on. The message says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """Lines in the form in which they are sent."""

    lines: Sequence[Line]
    body: bytes
    plain_bytes: int
    """The size of the body before it was packed."""
    key: str
    is_gzip: bool

    def __str__(self) -> str:
        first, last = self.lines[0].number, self.lines[-1].number
        return f"line {first}" if first == last else f"lines {first} to {last}"


Post = Callable[[Request], Awaitable[Answer]]


class Preparer:
    """Turns lines into requests."""

    def __init__(self, site_id: str, *, use_gzip: bool) -> None:
        self._site_id = site_id
        self._use_gzip = use_gzip

    def request(self, lines: Sequence[Line]) -> Request:
        """The request with these lines, of which there is at least one."""
        body = body_of(lines)
        key = key_of(self._site_id, lines, body)
        sent = gzip.compress(body, _GZIP_LEVEL) if self._use_gzip else body
        return Request(lines, sent, len(body), key, self._use_gzip)


class Sender:
    """Sends requests, one at a time."""

    def __init__(
        self,
        prepare: Callable[[Sequence[Line]], Request],
        post: Post,
        clock: Clock,
        *,
        patience_s: float,
        jitter: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        """`post` raises Unanswered or GaveUp. `jitter` returns 0 to 1. `tell` gets the reason of each wait."""
        self._prepare = prepare
        self._post = post
        self._clock = clock
        self._patience_s = patience_s
        self._jitter = jitter
        self._tell = tell
        self._is_answered = False
        # What was too much: so many events, and so many bytes, plain and as sent. To learn it again for each batch
        # would cost a token or 4 MiB.
        self._too_many: int | None = None
        self._too_large: tuple[int, int] | None = None

    async def send(self, request: Request) -> list[NotStored]:
        """The lines that were not stored, once all are judged. Raises GaveUp."""
        lines = request.lines
        if len(lines) > 1 and self._is_too_much(request):
            return await self._send_halves(lines)
        judged = await self._judged(request)
        if isinstance(judged, Judged):
            return [
                NotStored(lines[index].number, why) for index, whys in sorted(judged.not_stored.items()) for why in whys
            ]
        if len(lines) == 1:
            return [NotStored(lines[0].number, judged.why)]
        if judged.is_count:
            self._too_many = len(lines)
        else:
            self._too_large = request.plain_bytes, len(request.body)
        return await self._send_halves(lines)

    def _is_too_much(self, request: Request) -> bool:
        """Whether this request would certainly be refused whole.

        It must be certain: a later run, which has yet to learn it, would send the request whole and with another key.
        The collector limits the plain size, and a proxy the packed one. So both must be as large as what was refused.
        """
        if self._too_many is not None and len(request.lines) >= self._too_many:
            return True
        if self._too_large is None:
            return False
        plain_bytes, sent_bytes = self._too_large
        return request.plain_bytes >= plain_bytes and len(request.body) >= sent_bytes

    async def _send_halves(self, lines: Sequence[Line]) -> list[NotStored]:
        middle = len(lines) // 2
        first = await self.send(self._prepare(lines[:middle]))
        return first + await self.send(self._prepare(lines[middle:]))

    async def _judged(self, request: Request) -> Judged | TooMuch:
        """Send it until the answer is final, with waits between. Raises GaveUp when the patience ends."""
        began_ns = self._clock.monotonic_ns()
        for failures in count():
            try:
                answer = await self._post(request)
                self._is_answered = True
                found = verdict(answer, len(request.lines), self._clock.now_us() / 1e6)
            except Unanswered as exc:
                found = Again(str(exc))
            if isinstance(found, Hopeless):
                raise GaveUp(f"{request}: {found.why}")
            if not isinstance(found, Again):
                return found
            wait_s = self._wait_s(failures, found.after_s)
            until_ns = self._clock.monotonic_ns() + wait_s * 1e9
            if until_ns > began_ns + self._patience_now_s() * 1e9:
                raise GaveUp(f"{request}: {found.why}; {self._why_no_more(wait_s)}")
            self._tell(f"{request}: {found.why}; trying again in {wait_s:.1f} s")
            await self._clock.sleep(wait_s)
        raise AssertionError("unreachable")

    def _wait_s(self, failures: int, after_s: float | None) -> float:
        """What the answer asks for, else twice as long each time, of which half at random."""
        limit_s = LONGEST_WAIT_S if self._is_answered else UNANSWERED_WAIT_S
        longest = FIRST_WAIT_S if after_s is not None else min(limit_s, FIRST_WAIT_S * 2.0 ** min(failures, 20))
        return max(after_s or 0.0, longest * (0.5 + self._jitter() / 2))

    def _patience_now_s(self) -> float:
        return self._patience_s if self._is_answered else min(self._patience_s, UNANSWERED_PATIENCE_S)

    def _why_no_more(self, wait_s: float) -> str:
        if not self._is_answered:
            return "no request of this import was answered; is --url right?"
        return f"the next try would be in {wait_s:.1f} s, but --patience is {self._patience_s:g} s"
