"""How event loop lag is measured."""

import asyncio
import time

from collector.daemon.loop_lag import watch_loop_lag
from collector.metrics import Metrics


async def test_stall_of_the_loop_is_recorded() -> None:
    """A tick that is due after 0.01 s comes after a stall of 0.2 s, so it is at least 0.19 s late."""
    metrics = Metrics()
    watching = asyncio.create_task(watch_loop_lag(metrics.loop_lag_seconds))
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - this is the stall
    await asyncio.sleep(0)
    while not metrics.registry.get_sample_value("collector_event_loop_lag_seconds_count"):  # noqa: ASYNC110
        await asyncio.sleep(0)
    watching.cancel()
    assert (metrics.registry.get_sample_value("collector_event_loop_lag_seconds_sum") or 0) > 0.15
