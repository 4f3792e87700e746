"""The turn budget: how many received bytes one turn of the event loop processes.

libuv delivers the bytes of up to 1,024 connections in one turn. If a thousand clients send at once, processing all of
them would take 50 ms and delay everything else: timers, and responses to stored events. So a turn processes some bytes,
and the rest wait in order for the next turns.

libuv also accepts only one new connection a turn, so long turns mean a long wait for newcomers.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

# 34 requests of the usual size, at most 1 ms, or 10 requests of 8 KB. Next to 128 busy connections with durability
# `memory`, a newcomer waits 12 ms. With three times the budget it waited 1.5 s, for the same CPU time
# (bench/newcomers.py).
TURN_BYTES = 100_000
PIECE_BYTES: Final = 2_048  # the fixed cost of a read, in bytes of budget

# The limit on waiting bytes: a thousand requests of 8 KB, or 5,000 of the usual size. Bytes beyond it are processed at
# once, as without a budget: a stall is better than unbounded memory.
WAITING_MAX_BYTES = 8 << 20

GoOn = Callable[[], object]


class TurnBudget:
    """The budget of one event loop, shared by its connections."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left_bytes = TURN_BYTES
        self._waiting: deque[tuple[int, GoOn]] = deque()  # at most one for each connection
        self._waiting_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Return whether the caller may process its bytes now. If not, it must `wait`."""
        left_bytes = self._left_bytes
        if left_bytes == TURN_BYTES:
            self._loop.call_soon(self._next_turn)
        size_bytes += PIECE_BYTES
        if (left_bytes > 0 and not self._waiting) or self._waiting_bytes + size_bytes > WAITING_MAX_BYTES:
            self._left_bytes = left_bytes - size_bytes
            return True
        return False

    def wait(self, size_bytes: int, go_on: GoOn) -> None:
        """Call `go_on` when its bytes may be processed."""
        size_bytes += PIECE_BYTES
        self._waiting.append((size_bytes, go_on))
        self._waiting_bytes += size_bytes

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
