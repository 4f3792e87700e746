"""Threads that no exit waits for."""

import asyncio
import threading

from collector.threads import UNJOINED


async def test_call_whose_caller_gave_up_ends_quietly() -> None:
    """The caller was cancelled: the result of its call goes nowhere, and is no fault in the thread."""
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
    await asyncio.to_thread(threads[0].join)  # what the thread raises fails this test
