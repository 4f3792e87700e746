"""Stop signals: which starts the drain, which only repeats the first, and which exits at once."""

from signal import SIGINT, SIGTERM

import pytest

from collector.daemon.stop_signals import SAME_STOP_S, StopSignals
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
