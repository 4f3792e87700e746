"""How late the event loop is: what holds it (a long step, a thread that keeps the GIL) delays every answer as much."""

import asyncio
import time

from prometheus_client import Histogram

# 100 beats a second cost 0.1 % of a core, and see a stall of 20 ms as one of 10 at least.
BEAT_S = 0.01


async def watch_lag(lag_seconds: Histogram) -> None:
    """Note how late each beat comes, for ever. By the system's clock: uvloop's own stands still while it is held."""
    while True:
        due = time.monotonic() + BEAT_S
        await asyncio.sleep(BEAT_S)
        lag_seconds.observe(max(0.0, time.monotonic() - due))
