"""Threads for calls that block. The exit of the process waits for none of them.

A call may never return, such as a stat on a network disk that is gone.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """Runs each call in a thread of its own. Callers must limit the number of simultaneous calls."""

    def submit(self, function: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return  # the caller gave up before the call began
            try:
                result = function(*arguments, **keywords)
            except BaseException as exc:  # noqa: BLE001 - passed on to the caller
                future.set_exception(exc)
            else:
                future.set_result(result)

        Thread(target=run, name="unjoined", daemon=True).start()
        return future


UNJOINED = DaemonThreads()


Call = tuple[asyncio.Future[Any], Callable[..., Any], tuple[object, ...]]


class CallThread:
    """One thread, which runs calls in order. The event loop's thread owns it.

    Cheaper than `run_in_executor` with a ThreadPoolExecutor, which makes two futures with locks, and a work item.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._is_started = False

    def call(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Run `function(*arguments)` in the thread. It runs even if the future is cancelled."""
        if not self._is_started:
            self._is_started = True
            Thread(target=_run, args=(self._calls,), name=self._name, daemon=True).start()
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((outcome, function, arguments))
        return outcome

    def stop(self) -> None:
        """End the thread once its calls have finished. Does not wait."""
        self._calls.put(None)


def _run(calls: SimpleQueue[Call | None]) -> None:
    while (call := calls.get()) is not None:
        outcome, function, arguments = call
        result, error = None, None
        try:
            result = function(*arguments)
        except BaseException as exc:  # noqa: BLE001 - passed on to the caller
            error = exc
        with suppress(RuntimeError):  # the loop was closed meanwhile, so nobody waits
            outcome.get_loop().call_soon_threadsafe(_finish, outcome, result, error)
        # Keep nothing alive while waiting for the next call.
        del call, outcome, function, arguments, result, error


def _finish(outcome: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    if outcome.done():  # cancelled
        return
    if error is None:
        outcome.set_result(result)
    else:
        outcome.set_exception(error)
