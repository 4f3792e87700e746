"""Time. Code that needs it is handed a Clock, so tests need not sleep for timers."""

import asyncio
import time
from typing import Final, Protocol

US_PER_S: Final = 1_000_000
SECONDS_PER_DAY: Final = 86_400
US_PER_DAY: Final = SECONDS_PER_DAY * US_PER_S


class Clock(Protocol):
    """Wall-clock time, monotonic time, and a way to wait."""

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC. It may jump, so never measure durations with it."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never decreases."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        ...


class SystemClock:
    """The clocks of the machine."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    monotonic_ns = staticmethod(time.monotonic_ns)  # no wrapper function: it would cost each request 40 ns

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def sleep_unless(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Wait for this many seconds, or until the event is set."""
    waiting = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
