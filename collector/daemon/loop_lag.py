"""Event loop lag. A long callback, or a thread that holds the GIL, delays every response by the same time."""

import asyncio
import time

from prometheus_client import Histogram

# 100 ticks a second cost 0.1 % of a core. A stall of 20 ms shows as at least 10 ms.
TICK_S = 0.01


async def watch_loop_lag(lag_seconds: Histogram) -> None:
    """Record how late each tick is, until cancelled. uvloop's own clock stands still while the loop is blocked."""
    while True:
        due = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        lag_seconds.observe(max(0.0, time.monotonic() - due))
