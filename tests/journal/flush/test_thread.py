"""The flush thread: its priority, and its CPU time."""

import os
import time

import pytest

from collector.journal.flush.thread import FlushThread
from collector.thread_priority import LOW_PRIORITY


async def test_priority_is_lower_than_the_event_loops() -> None:
    priority = await FlushThread().call(lambda which: os.getpriority(which, 0), os.PRIO_PROCESS)
    assert LOW_PRIORITY == priority - os.getpriority(os.PRIO_PROCESS, os.getpid())


async def test_cpu_time_is_known_only_while_a_call_runs() -> None:
    thread = FlushThread()
    assert thread.cpu_ns() is None

    def spin(cpu_s: float) -> tuple[int, int]:
        before = thread.cpu_ns()
        until = time.thread_time() + cpu_s
        while time.thread_time() < until:
            pass
        return before or 0, thread.cpu_ns() or 0

    before, after = await thread.call(spin, 0.01)
    assert 0 < before <= after - 10_000_000
    assert thread.cpu_ns() is None


async def test_error_in_the_thread_is_raised_by_the_call() -> None:
    def fail(argument: str) -> None:
        raise OSError(argument)

    thread = FlushThread()
    with pytest.raises(OSError, match="No space left"):
        await thread.call(fail, "No space left")
    assert "next" == await thread.call(str, "next")
