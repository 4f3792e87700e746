"""Threads that the exit of the process does not wait for."""

import asyncio
import threading

from collector.threads import UNJOINED


async def test_call_of_a_cancelled_caller_ends_quietly() -> None:
    """Its result is discarded, and the thread raises nothing."""
    begun, go_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def call() -> None:
        threads.append(threading.current_thread())
        begun.set()
        assert go_on.wait(10)

    caller = asyncio.get_running_loop().run_in_executor(UNJOINED, call)
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    await asyncio.wait([caller])
    go_on.set()
    await asyncio.to_thread(threads[0].join)  # an exception in the thread fails this test
