"""Threads for calls that may never return, as a look at a network disk that is away."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from threading import Thread
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """One thread for each call, which no exit waits for: the threads of a pool would hold it for as long as they hang.

    Whoever calls bounds how many calls there are at once.
    """

    def submit(self, function: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return  # whoever called gave up before it began
            try:
                result = function(*arguments, **keywords)
            except BaseException as exc:  # noqa: BLE001 - for whoever waits
                future.set_exception(exc)
            else:
                future.set_result(result)

        Thread(target=run, name="unjoined", daemon=True).start()
        return future


UNJOINED = DaemonThreads()
