"""The log's rate limit: a few of many similar records are written, then a count of the others.

The first record after a period starts the next period. In each period the first MAX_ALIKE records of a kind pass. When
it ends, one line per kind counts the others; a timer ends it even if no more records arrive.

Records are of one kind if they have the same logger and the same text before arguments are filled in, apart from
numbers: asyncio and libraries put addresses and descriptors into the text. Kinds beyond MAX_KINDS share one, so memory
and lines are bounded whatever is logged.
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
"""The logger, and the first line of the text with its numbers replaced."""

_OTHERS: Kind = ("", "")

Later = Callable[[float, Callable[[], None]], None]
"""Calls the function once, after this many seconds."""


class RateLimitFilter(logging.Filter):
    """Lets MAX_ALIKE records of a kind pass per period. `emit` gets a record per kind that counts the others."""

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
        self._lock = threading.Lock()  # flushes and timers log from threads
        self._ends_s = 0.0
        self._seen: Counter[Kind] = Counter()
        self._left_out: dict[Kind, logging.LogRecord] = {}  # the latest record of each kind

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "left_out"):
            return True  # one of our own counts
        now_s = self._now_s()
        with self._lock:
            if now_s >= self._ends_s and not self._left_out:  # otherwise the timer ends the period
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
        """End the period and report how many records were left out."""
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
    timer.daemon = True  # so the process can exit without waiting for it
    timer.start()
