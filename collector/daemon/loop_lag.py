"""How late the event loop is: what holds it (a long step, a thread that keeps the GIL) delays every answer as much."""

import asyncio
import time

from prometheus_client import Histogram

# 100 ticks a second cost 0.1 % of a core, and see a stall of 20 ms as one of 10 at least.
TICK_S = 0.01


async def watch_loop_lag(lag_seconds: Histogram) -> None:
    """Record how late each tick comes, for ever. By the system's clock: uvloop's own stands still while it is held."""
    while True:
        due = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        lag_seconds.observe(max(0.0, time.monotonic() - due))
