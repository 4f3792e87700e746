"""Half of the peak: latency at half the rate that the closed loop reaches, while segments are flushed.

Every round measures three variants in turn: one site; one site without flushes; a hundred sites. The second
shows the latency that flushes do not cause: the machine shares its cores and its disk with others.
"""

from dataclasses import replace
from typing import Any

from rich.console import Console

from bench.growth import with_settings
from bench.peak import Shape, peak
from bench.results import Result
from bench.subject import Setup
from bench.sustained import paced

VARIANTS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("1 site", 1, {}),
    ("1 site, nothing flushed", 1, {"segment_max_bytes": 2**30, "flush_interval_s": 3_600}),
    ("100 sites", 100, {}),
)


def half(setup: Setup, shape: Shape, rounds: int) -> list[Result]:
    """Return every run; all use the same rate."""
    console = Console(stderr=True, highlight=False)
    runs: list[Result] = []
    closed = peak(replace(setup, sites=1), shape)
    for number in range(rounds):
        for name, sites, storage in VARIANTS:
            labels = {"what": name, "round": number}
            run = paced(
                replace(with_settings(setup, "storage", **storage), sites=sites),
                replace(shape, labels=labels),
                closed["per_second"] / 2,
            )
            runs.append(run)
            console.print(f"{name:>24}: p50 {run['quantiles_ms']['p50']:.1f} ms, p99 {run['p99_ms']:.1f} ms")
    return runs
