"""The flush thread, which runs at LOW_PRIORITY so that requests do not wait for a flush."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from collector.portable import cpu_clock
from collector.thread_priority import lower_priority

A = TypeVar("A")
T = TypeVar("T")


class FlushThread:
    """A thread that runs one call at a time. The event loop's thread owns it."""

    def __init__(self) -> None:
        self._calls = 0  # running or waiting
        self._cpu_clock: int | None = None  # None until the thread has started
        # A separate pool: a slow disk must not block other work, and other work must not block flushes.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="flush", initializer=self._begin)

    async def call(self, function: Callable[[A], T], argument: A) -> T:
        """Run `function(argument)` in the thread, and return or raise what it does."""
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, argument)
        finally:
            self._calls -= 1

    def cpu_ns(self) -> int | None:
        """The CPU time that the thread has used. None while it has nothing to do."""
        return time.clock_gettime_ns(self._cpu_clock) if self._calls and self._cpu_clock is not None else None

    def shutdown(self) -> None:
        """Stop the thread once its calls have finished. Does not wait."""
        self._executor.shutdown(wait=False)

    def _begin(self) -> None:
        lower_priority()
        self._cpu_clock = cpu_clock()
