"""Stop signals: the first SIGTERM or SIGINT starts the drain, and a second one exits at once.

The same signal within a second counts as a repeat of the first. When a whole process group gets a signal, then make, a
shell or a container's init also passes it on, so the collector gets it twice within milliseconds. The same signal after
that second, or the other signal at any time, means that someone does not want to wait.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from collector.clock import Clock

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_STOP_S = 1.0


class StopSignals:
    """Calls `stop` for the first signal, and `exit_at_once` for each later one that does not merely repeat it."""

    def __init__(self, clock: Clock, stop: Callable[[], object], exit_at_once: Callable[[], object]) -> None:
        self._clock = clock
        self._stop = stop
        self._exit_at_once = exit_at_once
        self._first: tuple[int, int] | None = None  # the signal, and its time on the monotonic clock

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive stop signals in the running loop. Leave the block before the loop closes, with nothing left to drain.

        From then on the kernel ignores these signals, so that none kills the process before it returns its exit code.
        A handler in Python would still run while the loop closes, and Python removes its handlers before it exits.
        `add_signal_handler` would restore the default action when the loop closes.
        """
        loop = asyncio.get_running_loop()

        def arrived(number: int, _: object) -> None:
            loop.call_soon_threadsafe(self.receive, number, self._clock.monotonic_ns())

        for number in STOP_SIGNALS:
            signal.signal(number, arrived)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def receive(self, number: int, at_ns: int) -> None:
        """Handle a signal that arrived at `at_ns` on the monotonic clock."""
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
