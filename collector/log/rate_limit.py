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
from collections import Counter
from collections.abc import Callable

MAX_ALIKE = 20
MAX_KINDS = 100
PERIOD_S = 10.0

_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")
_KIND_CHARACTERS = 200

Kind = tuple[str, str]
"""The logger, and the first line of the text without its numbers."""

_OTHERS: Kind = ("", "")

Later = Callable[[float, Callable[[], None]], None]
"""Call that in so many seconds, once."""


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
        self._seen: Counter[Kind] = Counter()
        self._left_out: dict[Kind, logging.LogRecord] = {}  # the latest of each kind

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "left_out"):
            return True  # a count of ours
        now_s = self._now_s()
        with self._lock:
            if now_s >= self._ends_s and not self._left_out:  # else the timer ends the period
                self._seen.clear()
                self._ends_s = now_s + PERIOD_S
            kind = self._kind(record)
            self._seen[kind] += 1
            if self._seen[kind] <= MAX_ALIKE:
                return True
            if not self._left_out:
                self._later(self._ends_s - now_s, self.report)
            self._left_out[kind] = record
            return False

    def report(self) -> None:
        """End the period, and report what was left out in it."""
        with self._lock:
            seen, left_out = self._seen, self._left_out
            self._seen, self._left_out, self._ends_s = Counter(), {}, 0.0
        for kind, latest in left_out.items():
            count = seen[kind] - MAX_ALIKE
            message = f"{count} more like this in {PERIOD_S:g} s: {latest.getMessage()}"
            record = logging.LogRecord(
                latest.name, latest.levelno, latest.pathname, latest.lineno, message, None, None, latest.funcName
            )
            record.left_out = count
            self._emit(record)

    def _kind(self, record: logging.LogRecord) -> Kind:
        text = str(record.msg)[:_KIND_CHARACTERS].partition("\n")[0]
        kind = (record.name, _NUMBERS.sub("#", text))
        return kind if kind in self._seen or len(self._seen) < MAX_KINDS else _OTHERS


def _in_a_thread(seconds: float, function: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, function)
    timer.daemon = True  # no exit waits for it
    timer.start()
