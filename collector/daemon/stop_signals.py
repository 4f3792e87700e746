"""Stop signals: the first SIGTERM or SIGINT starts the drain, and a second one exits at once.

The same signal within a second counts as the first: when it is sent to a whole process group, make, a shell or the init
of a container passes it on, and it comes twice within milliseconds. The same signal later, or the other one, means that
somebody does not want to wait.
"""

import asyncio
import atexit
import signal
from collections.abc import Callable

from collector.clock import Clock

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_STOP_S = 1.0


class StopSignals:
    """Calls `stop` at the first signal, and `exit_at_once` at a later one, unless that only repeats the first."""

    def __init__(self, clock: Clock, stop: Callable[[], object], exit_at_once: Callable[[], object]) -> None:
        self._clock = clock
        self._stop = stop
        self._exit_at_once = exit_at_once
        self._first: tuple[int, int] | None = None  # the signal, and when it came

    def listen(self) -> None:
        """Receive them in the running loop from now on.

        Not by `add_signal_handler`: a loop that closes restores the default action, and a repeated signal after the
        drain would then kill the process before it returns its exit code.
        """
        loop = asyncio.get_running_loop()

        def arrived(number: int, _: object) -> None:
            at_ns = self._clock.monotonic_ns()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.receive, number, at_ns)
            elif not self._is_same_stop(number, at_ns):
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        for number in STOP_SIGNALS:
            signal.signal(number, arrived)
        # Python removes its handlers before it has exited, and by then there is nothing left to drain.
        atexit.register(_ignore_all)

    def receive(self, number: int, at_ns: int) -> None:
        """A signal has come, at that time of the monotonic clock."""
        if self._first is None:
            self._first = (number, at_ns)
            self._stop()
        elif not self._is_same_stop(number, at_ns):
            self._exit_at_once()

    def _is_same_stop(self, number: int, at_ns: int) -> bool:
        if self._first is None:
            return False
        first, first_ns = self._first
        return number == first and at_ns - first_ns < SAME_STOP_S * 1e9


def _ignore_all() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
