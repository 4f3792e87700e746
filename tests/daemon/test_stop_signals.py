"""Stop signals: which starts the drain, which only repeats the first, and which exits at once."""

import asyncio
import signal
from collections.abc import Iterator
from signal import SIG_IGN, SIGINT, SIGTERM, Signals

import pytest

from collector.daemon.stop_signals import SAME_STOP_S, STOP_SIGNALS, StopSignals
from tests.support import FakeClock

S = 1_000_000_000
LATE = round(SAME_STOP_S * S)


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ([(SIGTERM, 0)], ["stop"]),
        ([(SIGINT, 0)], ["stop"]),
        ([(SIGTERM, 0), (SIGTERM, 0)], ["stop"]),
        ([(SIGTERM, 5 * S), (SIGTERM, 5 * S + LATE - 1)], ["stop"]),
        ([(SIGTERM, 5 * S), (SIGTERM, 5 * S + LATE)], ["stop", "exit"]),
        # The second counts from the first signal, so repeats do not extend it.
        ([(SIGINT, n * S // 2) for n in range(4)], ["stop", "exit", "exit"]),
        ([(SIGINT, 0), (SIGTERM, 1)], ["stop", "exit"]),
        ([(SIGTERM, 0), (SIGINT, 1)], ["stop", "exit"]),
        ([(SIGTERM, 0), (SIGTERM, 1), (SIGINT, 2), (SIGTERM, 3)], ["stop", "exit"]),
    ],
)
def test_same_signal_within_a_second_is_a_repeat(
    clock: FakeClock, arrivals: list[tuple[int, int]], expected: list[str]
) -> None:
    called: list[str] = []
    signals = StopSignals(clock, lambda: called.append("stop"), lambda: called.append("exit"))
    for number, at_ns in arrivals:
        signals.receive(number, at_ns)
    assert expected == called


@pytest.fixture
def _same_handlers_afterwards() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_same_handlers_afterwards")
@pytest.mark.parametrize("stopped_by", [SIGTERM, SIGINT, None])
async def test_the_kernel_ignores_stop_signals_after_the_drain(clock: FakeClock, stopped_by: Signals | None) -> None:
    """Also in a worker that its supervisor told to drain: the process group's signal may reach it only then."""
    stopped = asyncio.Event()
    with StopSignals(clock, stopped.set, lambda: None).listening():
        if stopped_by:
            signal.raise_signal(stopped_by)
            await asyncio.wait_for(stopped.wait(), 10)
    assert [SIG_IGN, SIG_IGN] == [signal.getsignal(number) for number in STOP_SIGNALS]
