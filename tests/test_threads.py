"""Threads that the exit of the process does not wait for."""

import asyncio
import sys
import threading

import pytest

from collector.threads import UNJOINED, CallThread


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


async def test_call_thread_runs_calls_in_order_and_passes_on_what_they_return_or_raise() -> None:
    thread, order = CallThread("test"), list[int]()
    calls = [thread.call(order.append, number) for number in range(100)]
    failing = thread.call(int, "x")
    threads = {await thread.call(threading.current_thread) for _ in range(2)}
    assert 100 * [None] == await asyncio.gather(*calls)
    assert list(range(100)) == order
    with pytest.raises(ValueError, match="invalid literal"):
        await failing
    thread.stop()
    assert ["test"] == [each.name for each in threads], "one thread runs all calls"
    await asyncio.to_thread(threads.pop().join, 10)


async def test_exit_of_the_process_does_not_wait_for_a_call_thread() -> None:
    thread = CallThread("test")
    own = await thread.call(threading.current_thread)
    thread.stop()
    assert own.daemon


async def test_system_exit_in_a_call_reaches_its_caller_and_the_thread_goes_on() -> None:
    thread = CallThread("test")
    own = await thread.call(threading.current_thread)
    with pytest.raises(SystemExit, match="3"):
        await asyncio.wait_for(thread.call(sys.exit, 3), 10)
    assert own is await asyncio.wait_for(thread.call(threading.current_thread), 10)
    thread.stop()


async def test_call_thread_finishes_its_calls_before_it_stops_even_if_their_callers_are_cancelled() -> None:
    thread, go_on, made = CallThread("test"), threading.Event(), list[str]()
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    own = await thread.call(threading.current_thread)
    thread.call(go_on.wait, 10).cancel()
    thread.call(made.append, "queued").cancel()
    thread.stop()
    go_on.set()
    await asyncio.to_thread(own.join, 10)
    await asyncio.sleep(0)
    assert (["queued"], False, []) == (made, own.is_alive(), errors)


def test_call_that_outlives_its_event_loop_ends_quietly() -> None:
    thread, go_on = CallThread("test"), threading.Event()

    async def leave() -> threading.Thread:
        own = await thread.call(threading.current_thread)
        thread.call(go_on.wait, 10)
        return own

    own = asyncio.run(leave())
    thread.stop()
    go_on.set()
    own.join(10)  # an exception in the thread fails this test
    assert not own.is_alive()
