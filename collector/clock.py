"""Time, handed in: what needs it takes a Clock, and no test sleeps for a timer."""

import asyncio
import time
from typing import Protocol

US_PER_S = 1_000_000
SECONDS_PER_DAY = 86_400
US_PER_DAY = SECONDS_PER_DAY * US_PER_S


class Clock(Protocol):
    """The two clocks a collector needs, and a way to wait."""

    def now_us(self) -> int:
        """Microseconds since the epoch, UTC. May jump: it is only ever written down, never subtracted."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds from an arbitrary start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that long."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    monotonic_ns = staticmethod(time.monotonic_ns)  # itself: a function around it would cost each request 40 ns

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def sleep_unless(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Wait that long, or until the event is set."""
    waiting = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
