"""The rate limit of the log: of similar records a few are written, then a count of the others.

Time is cut into periods, each begun by the first record after the last. In a period the first MAX_ALIKE of a kind pass.
At its end a line for each kind counts the others; a timer sees to that when no more records come. Records are of one
kind if their texts are equal before arguments are filled in, numbers aside: asyncio and libraries write addresses and
descriptors into theirs. Kinds beyond MAX_KINDS share one, so memory and lines are bounded whatever comes in.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MAX_ALIKE = 20
MAX_KINDS = 100
PERIOD_S = 10.0

_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")
_KIND_CHARACTERS = 200
_OTHERS = ("", "")

Later = Callable[[float, Callable[[], None]], None]
"""Call that in so many seconds, once."""


@dataclass(slots=True)
class _Kind:
    seen: int = 0
    latest: logging.LogRecord | None = None


class RateLimitFilter(logging.Filter):
    """Lets MAX_ALIKE records of a kind pass in a period; `emit` gets a record with the count of the others."""

    def __init__(
        self,
        emit: Callable[[logging.LogRecord], object],
        now_s: Callable[[], float] = time.monotonic,
        later: Later | None = None,
    ) -> None:
        super().__init__()
        self._emit = emit
        self._now_s = now_s
        self._later = later or _in_a_thread
        self._lock = threading.Lock()  # a flush and a timer log beside the event loop
        self._ends_s = 0.0
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "left_out"):
            return True  # a count of ours
        now_s, counts = self._now_s(), []
        with self._lock:
            if now_s >= self._ends_s:  # nobody has ended it where nothing was left out
                counts = self._end()
                self._ends_s = now_s + PERIOD_S
            kind = self._kind(record)
            kind.seen += 1
            passes = kind.seen <= MAX_ALIKE
            if not passes:
                if not any(other.latest for other in self._kinds.values()):
                    self._later(self._ends_s - now_s, self.report)
                kind.latest = record
        self._report(counts)
        return passes

    def report(self) -> None:
        """End the period, and report what was left out in it."""
        with self._lock:
            counts = self._end()
        self._report(counts)

    def _kind(self, record: logging.LogRecord) -> _Kind:
        text = str(record.msg)[:_KIND_CHARACTERS].partition("\n")[0]
        name = (record.name, _NUMBERS.sub("#", text))
        if name not in self._kinds and len(self._kinds) >= MAX_KINDS:
            name = _OTHERS
        return self._kinds.setdefault(name, _Kind())

    def _end(self) -> list[_Kind]:
        ended, self._kinds, self._ends_s = self._kinds, {}, 0.0
        return [kind for kind in ended.values() if kind.latest]

    def _report(self, counts: list[_Kind]) -> None:
        for kind in counts:
            latest, left_out = kind.latest, kind.seen - MAX_ALIKE
            assert latest is not None
            message = f"{left_out} more like this in {PERIOD_S:g} s: {latest.getMessage()}"
            count = logging.LogRecord(
                latest.name, latest.levelno, latest.pathname, latest.lineno, message, None, None, latest.funcName
            )
            count.left_out = left_out
            self._emit(count)


def _in_a_thread(seconds: float, function: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, function)
    timer.daemon = True  # no exit waits for it
    timer.start()
