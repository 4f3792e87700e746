"""The thread that flushes work in. It leaves the core to the event loop while there is time, and hurries when not.

A flush should be done before the next segment is sealed: else that one waits on disk alone, and is read back for more
CPU time than it cost to take. So the nearer that is, the higher is the priority of the thread, up to the loop's own.
Where the system does not let a thread have a higher priority again, it always has one between.
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
from collector.thread_priority import NICE, VERY_NICE, CoreTime, core_time, lower_priority, may_raise_priority

# Of the time until the next segment is sealed. A flush takes 3 to 13 % of a core meanwhile (1 to 300 sites), and with
# events of 8 KB on a busy core a quarter: that has next to nothing at first, then a quarter of the core, then half,
# which is just enough.
NICE_FROM = 0.4
EQUAL_FROM = 0.6

# How much of the time in which it could run an event loop waits for a core that only its own threads want: 2 to 20 %.
# With a program beside it that is always busy it is half.
ONLY_WORKER = 0.3

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
        self._may_hurry = may_raise_priority()
        self._calls = 0  # under way, or waiting
        self._id: int | None = None  # it has not begun
        self._cpu_clock: int | None = None
        # Its own: a slow disk must not take the threads of others, nor they the flush's.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="flush", initializer=self._begin)

    async def call(self, function: Callable[[A], T], argument: A, pressure: Pressure) -> T:
        """Run it there."""
        self._calls += 1
        pacing = asyncio.create_task(self._turn_budget(pressure)) if self._may_hurry else None
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, argument)
        finally:
            self._calls -= 1
            if pacing is not None:
                pacing.cancel()

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

    async def _turn_budget(self, pressure: Pressure) -> None:
        while True:
            if self._id is not None:
                # A right that was taken away meanwhile costs speed, and no flush.
                with suppress(PermissionError):
                    lower_priority(self._nice(pressure()), self._id)
            await self._clock.sleep(LOOK_S)

    def _nice(self, pressure: float) -> int:
        is_alone = self._is_alone()
        if pressure >= EQUAL_FROM:
            return 0
        # Beside another program the loop would wait for a thread that has the interpreter, and that one for a core.
        return VERY_NICE if pressure < NICE_FROM and is_alone else NICE

    def _is_alone(self) -> bool:
        """Whether the event loop has hardly waited for its core since this was asked last."""
        before, self._looked = self._looked, self._loop_core_time()
        if before is None or self._looked is None:
            return False
        ran_ns, waited_ns = self._looked.ran_ns - before.ran_ns, self._looked.waited_ns - before.waited_ns
        return waited_ns <= ONLY_WORKER * (ran_ns + waited_ns)
