"""The turn budget: how much of what has come one turn of the event loop takes up.

libuv hands over what came on up to 1,024 connections in one turn. When a thousand send at once, a turn that took up all
of it would take 50 ms, and whatever else is due would wait: timers, answers to events that are stored. So a turn takes
up some of it, and the rest waits in its order for the next ones.

It accepts one new connection a turn, too, so that a long turn is a long wait for a newcomer.
"""

import asyncio
from collections import deque
from collections.abc import Callable

# 34 requests of the usual size, some 1 ms; of 8 KB each 10. With three times as much a newcomer waited 1.5 s beside 128
# busy connections and durability `memory`, and 12 ms with this, for the same CPU time (bench/newcomers.py).
TURN_BYTES = 100_000
PIECE_BYTES = 2_048  # the fixed cost of a read, in bytes of budget

# What may wait: a thousand requests of 8 KB, or 5,000 of the usual size. What comes beyond it is taken up at once, as
# all of it would be without a budget: a stall is better than memory without bound.
WAITING_MAX_BYTES = 8 << 20

GoOn = Callable[[], object]


class TurnBudget:
    """Decides for all connections of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left_bytes = TURN_BYTES
        self._waiting: deque[tuple[int, GoOn]] = deque()  # one for a connection, at most
        self._waiting_bytes = 0

    def take_up(self, size_bytes: int, go_on: GoOn) -> bool:
        """Whether the caller should take up what has come; if not, `go_on` is called when it should."""
        size_bytes += PIECE_BYTES
        left_bytes = self._left_bytes
        if left_bytes == TURN_BYTES:
            self._loop.call_soon(self._next_turn)
        if (left_bytes > 0 and not self._waiting) or self._waiting_bytes + size_bytes > WAITING_MAX_BYTES:
            self._left_bytes = left_bytes - size_bytes
            return True
        self._waiting.append((size_bytes, go_on))
        self._waiting_bytes += size_bytes
        return False

    def _next_turn(self) -> None:
        left_bytes = TURN_BYTES
        while self._waiting and left_bytes > 0:
            size_bytes, go_on = self._waiting.popleft()
            self._waiting_bytes -= size_bytes
            left_bytes -= size_bytes
            go_on()
        self._left_bytes = left_bytes
        if left_bytes < TURN_BYTES:
            self._loop.call_soon(self._next_turn)
