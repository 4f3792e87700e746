"""Threads for calls that may never return, such as a stat on a network disk that is gone."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Thread
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """Runs each call in a daemon thread. The exit of the process does not wait for it, as it would for a thread pool.

    Callers must limit the number of simultaneous calls.
    """

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
