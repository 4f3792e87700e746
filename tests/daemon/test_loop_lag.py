"""The lag of the event loop, as it is measured."""

import asyncio
import time

from collector.daemon.loop_lag import watch_loop_lag
from collector.metrics import Metrics


async def test_stall_of_the_loop_is_seen() -> None:
    """Held for 0.2 s between two ticks, it is late by 0.19 s at least; a machine that is busy makes it later still."""
    metrics = Metrics()
    watching = asyncio.create_task(watch_loop_lag(metrics.loop_lag_seconds))
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - that is the stall
    await asyncio.sleep(0)
    while not metrics.registry.get_sample_value("collector_event_loop_lag_seconds_count"):  # noqa: ASYNC110
        await asyncio.sleep(0)
    watching.cancel()
    assert (metrics.registry.get_sample_value("collector_event_loop_lag_seconds_sum") or 0) > 0.15
