"""How figures are read, searched and checked."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.compare import ratios
from bench.peak import beyond, lag_of
from bench.processes import cpu_s, family, parse_stat, rss_bytes
from bench.server import started
from bench.sustained import broken, grows, search

HELD = {
    "p99_ms": 10.0,
    "refused": 0,
    "failed": 0,
    "unsent": 0,
    "flushes": 3,
    "segments_waiting": 1,
    "seconds": 60.0,
    "rss_mb": [],
}


def test_cpu_time_is_user_and_system_of_the_process_and_its_ended_children() -> None:
    """The program's name can contain anything, even parentheses and spaces."""
    fields = ["S", *(str(number) for number in range(1, 11)), "100", "20", "3", "4", "20"]
    assert pytest.approx(1.27) == parse_stat(f"42 (a) b) (c) {' '.join(fields)}\n")


def test_family_includes_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), child.pid} <= set(family(os.getpid()))
        assert rss_bytes(child.pid) < rss_bytes(os.getpid())
        assert 0 < cpu_s(os.getpid())
    finally:
        child.communicate(b"\n")


def test_server_that_is_not_stopped_is_killed_with_its_descendants(tmp_path: Path) -> None:
    with started(["sh", "-c", "sleep 600 & wait"], tmp_path) as server:
        while len(members := list(family(server.pid))) < 2:
            time.sleep(0.01)
    until = time.monotonic() + 10
    while any(map(rss_bytes, members)) and time.monotonic() < until:
        time.sleep(0.01)  # whoever adopted the child has to notice its end
    assert [0, 0] == [rss_bytes(member) for member in members]


def test_process_that_has_ended_counts_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert (0.0, 0) == (cpu_s(child.pid), rss_bytes(child.pid))


@pytest.mark.parametrize("capacity", [150, 5_000, 9_000, 10_999])
def test_search_finds_the_highest_rate_that_is_held(capacity: float) -> None:
    found = search(7_000, 11_000, lambda rate: rate <= capacity)
    assert capacity / 1.1 <= found <= capacity


def test_search_returns_zero_if_no_rate_is_held() -> None:
    assert 0 == search(7_000, 11_000, lambda rate: False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p99_ms": 50.0}, "p99"),
        ({"p99_ms": float("nan")}, "p99"),
        ({"refused": 1}, "1 refused"),
        ({"failed": 1}, "1 failed"),
        ({"unsent": 1}, "1 not sent"),
        ({"segments_waiting": 3}, "segments"),
        ({"rss_mb": [(at, 100 + at) for at in range(60)]}, "memory grows"),
    ],
)
def test_rate_is_not_held_if_anything_is_broken(change: dict[str, object], reason: str) -> None:
    assert [] == broken(HELD)
    (found,) = broken(HELD | change)
    assert reason in found


def test_memory_growth_is_ignored_before_three_flushes() -> None:
    assert [] == broken(HELD | {"flushes": 2, "rss_mb": [(at, 100 + at) for at in range(60)]})


def test_memory_that_rises_and_falls_is_not_growth() -> None:
    assert not grows([100.0 + 50 * (number % 5) for number in range(90)])


def test_lag_is_read_from_cumulative_buckets() -> None:
    lag = lag_of({0.005: 90, 0.02: 97, 0.05: 100, float("inf"): 100})
    assert {"ticks": 100, "late_over_5_ms": 10, "late_over_20_ms": 3, "at_most_ms": 50} == lag
    assert (100, 0, None) == beyond({0.005: 90, float("inf"): 100}, 0.02), (
        "values in the last bucket are not counted as late"
    )


def test_ratio_compares_runs_of_the_same_pair() -> None:
    """Two pairs of one round, and one of the next."""
    runs = [
        {
            "kind": "run",
            "name": name,
            "title": name,
            "round": number // 2,
            "pair": number % 2,
            "cpu_us_per_event": cpu_us,
        }
        for number, pair in enumerate([(20.0, 40.0), (30.0, 30.0), (80.0, 40.0)])
        for name, cpu_us in zip(("collector", "other"), pair, strict=True)
    ]
    (ratio,) = ratios(runs)
    assert (1.0, 0.5, 2.0) == (ratio["cpu_ratio"], ratio["lowest"], ratio["highest"])
