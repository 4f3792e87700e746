"""The flush thread. It leaves the core to the event loop while there is time, and its priority rises with the pressure.

A flush should be done before the next segment is sealed: else that one waits on disk alone, and is read back for more
CPU time than it cost to take. So the nearer that is, the higher is the priority of the thread, up to the loop's own.
Where the system does not let a thread raise its priority, it always has LOW_PRIORITY.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from collector.clock import Clock
from collector.portable import cpu_clock
from collector.thread_priority import (
    LOW_PRIORITY,
    LOWEST_PRIORITY,
    CoreTime,
    core_time,
    lower_priority,
    may_raise_priority,
)

# Of the time until the next segment is sealed. A flush takes 3 to 13 % of a core meanwhile (1 to 300 sites), and with
# events of 8 KB on a busy core a quarter: that has next to nothing at first, then a quarter of the core, then half,
# which is just enough.
LOW_FROM = 0.4
EQUAL_FROM = 0.6

# How much of the time in which it could run an event loop waits for a core that only its own threads want: 2 to 20 %.
# With a program beside it that is always busy it is half.
UNCONTENDED_WAIT = 0.3

LOOK_S = 0.1

A = TypeVar("A")
T = TypeVar("T")

Pressure = Callable[[], float]
"""How much of the time is over in which it should be done: 0 none, 1 all."""


class FlushThread:
    """One thread, for one thing at a time. The event loop's thread owns it."""

    def __init__(self, clock: Clock, loop_core_time: Callable[[], CoreTime | None] | None = None) -> None:
        """`loop_core_time`: of the calling thread."""
        self._clock = clock
        loop = threading.get_native_id()
        self._loop_core_time = loop_core_time or (lambda: core_time(loop))
        self._looked = self._loop_core_time()
        self._may_raise_priority = may_raise_priority()
        self._calls = 0  # running, or waiting
        self._id: int | None = None  # it has not begun
        self._cpu_clock: int | None = None
        # Its own: a slow disk must not take the threads of others, nor they the flush's.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="flush", initializer=self._begin)

    async def call(self, function: Callable[[A], T], argument: A, pressure: Pressure) -> T:
        """Run it there."""
        self._calls += 1
        adjusting = asyncio.create_task(self._adjust_priority(pressure)) if self._may_raise_priority else None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, argument)
        finally:
            self._calls -= 1
            if adjusting is not None:
                adjusting.cancel()

    def cpu_ns(self) -> int | None:
        """What the thread has used of a core; None while it has nothing to do."""
        return time.clock_gettime_ns(self._cpu_clock) if self._calls and self._cpu_clock is not None else None

    def shutdown(self) -> None:
        """End it when it has nothing more to do."""
        self._executor.shutdown(wait=False)

    def _begin(self) -> None:
        lower_priority()
        self._id = threading.get_native_id()
        self._cpu_clock = cpu_clock()

    async def _adjust_priority(self, pressure: Pressure) -> None:
        while True:
            if self._id is not None:
                # A right that was taken away meanwhile costs speed, and no flush.
                with suppress(PermissionError):
                    lower_priority(self._priority(pressure()), self._id)
            await self._clock.sleep(LOOK_S)

    def _priority(self, pressure: float) -> int:
        is_uncontended = self._is_uncontended()
        if pressure >= EQUAL_FROM:
            return 0
        # Priority inversion: beside another program the loop waits for the GIL, whose holder waits for a CPU.
        return LOWEST_PRIORITY if pressure < LOW_FROM and is_uncontended else LOW_PRIORITY

    def _is_uncontended(self) -> bool:
        """Whether the event loop has hardly waited for its core since the last call."""
        before, self._looked = self._looked, self._loop_core_time()
        if before is None or self._looked is None:
            return False
        ran_ns, waited_ns = self._looked.ran_ns - before.ran_ns, self._looked.waited_ns - before.waited_ns
        return waited_ns <= UNCONTENDED_WAIT * (ran_ns + waited_ns)
