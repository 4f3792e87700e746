"""The status line."""

from pathlib import Path

import pytest

from collector.daemon.sd_notify import Manager
from collector.daemon.status import REFRESH_S, Reporter, Stats, draining_line, problems, serving_line
from tests.support import FakeClock


@pytest.mark.parametrize(
    ("unready_reason", "reload_failure", "per_s", "segments", "free", "expected"),
    [
        (None, None, 310.4, 2, 41_000_000_000, "receiving 310/s, 2 segments, 41 GB free"),
        (None, None, 0, 1, 1_260_000_000, "receiving 0/s, 1 segment, 1.3 GB free"),
        (None, None, 12_000, 0, None, "receiving 12,000/s, 0 segments, disk unknown"),
        (
            "disk space is low",
            "last reload failed: x",
            5,
            0,
            2_000_000,
            "refusing events: disk space is low; last reload failed: x; receiving 5/s, 0 segments, 0.0 GB free",
        ),
    ],
)
def test_line_starts_with_the_problems(
    unready_reason: str | None, reload_failure: str | None, per_s: float, segments: int, free: int | None, expected: str
) -> None:
    stats = Stats(segments=segments)
    assert expected == serving_line(problems(unready_reason, reload_failure), per_s, stats, free)


def test_stats_of_workers_are_added_up() -> None:
    assert Stats(4, 6, 8, 10) == Stats(1, 2, 3, 4) + Stats(3, 4, 5, 6)
    assert "draining: 8 requests in flight, 1,200 events to publish" == draining_line(Stats(4, 6, 8, 1_200))
    assert "draining: 1 request in flight, 1 event to publish" == draining_line(Stats(4, 6, 1, 1))


class LinesKept(Manager):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def status(self, line: str) -> None:
        self.lines.append(line)


async def test_rate_covers_the_time_since_the_last_line(tmp_path: Path, clock: FakeClock) -> None:
    """It is never negative, even if a worker dies before it reports its last events."""
    received = [0]
    manager = LinesKept()
    reporter = Reporter(manager, clock, tmp_path, lambda: Stats(received[0]), list)
    for total in (1_000, 1_500, 1_400):
        received[0] = total
        clock.advance(REFRESH_S)
        await reporter.refresh()
    assert ["receiving 200/s", "receiving 100/s", "receiving 0/s"] == [line.split(",")[0] for line in manager.lines]
    reporter.drain()
    await reporter.refresh()
    assert 2 * ["draining: 0 requests in flight, 0 events to publish"] == manager.lines[3:]
