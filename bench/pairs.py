"""Pairs: two ways to run the collector, in turn in one run, on the same cores.

A ratio compares the two runs of one pair, at most a minute apart. The result is the median over the pairs, with the
extremes. Every other pair starts with the second side, so neither side always runs later.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich.console import Console

from bench.growth import with_settings
from bench.peak import Shape, peak
from bench.results import Result, about_collector
from bench.subject import Setup, with_binary, with_checkout
from bench.sustained import paced

FIGURES = ("cpu_us_per_event", "p50_ms", "p99_ms")

Measure = Callable[[Setup, Shape], Result]


def fast_path(setup: Setup, shape: Shape, pairs: int) -> list[Result]:
    """Compare `server.fast_path` on and off, in the closed loop."""
    sides = {
        f"fast_path = {name}": with_settings(setup, "server", fast_path=name == "true") for name in ("true", "false")
    }
    return in_pairs(sides, peak, shape, pairs)


def versus(setup: Setup, shape: Shape, paths: Sequence[Path], pairs: int, rate: float | None) -> list[Result]:
    """Compare two collectors: in the closed loop, or in the open loop if there is a rate.

    Each path is a checkout (a folder) or a binary (a file). The results begin with a `side` entry for each.
    """

    def at_rate(setup: Setup, shape: Shape) -> Result:
        return paced(setup, shape, rate) if rate else peak(setup, shape)

    sides = {str(path): (with_binary if path.is_file() else with_checkout)(setup, path) for path in paths}
    measured = [{"kind": "side", "name": name, **about_collector(side)} for name, side in sides.items()]
    return [*measured, *in_pairs(sides, at_rate, shape, pairs)]


def in_pairs(sides: dict[str, Setup], measure: Measure, shape: Shape, pairs: int) -> list[Result]:
    """Return every run, and the ratios of the first side to the second."""
    console = Console(stderr=True, highlight=False)
    runs: list[Result] = []
    for number in range(pairs):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            run = measure(sides[name], replace(shape, labels={"kind": "run", "name": name, "round": number}))
            runs.append(run)
            console.print(f"{name}: {', '.join(f'{figure} {run[figure]:.1f}' for figure in FIGURES)}")
    return [*runs, *ratios(runs, *sides)]


def ratios(runs: Sequence[Result], first: str, second: str) -> list[Result]:
    """For each figure, return the ratio of the first side to the second, pair by pair, and the medians of both."""
    found = []
    for figure in FIGURES:
        of = {(run["name"], run["round"]): run[figure] for run in runs}
        pairs = [(of[first, number], of[second, number]) for number in sorted({number for _, number in of})]
        each = [ours / theirs for ours, theirs in pairs]
        found.append(
            {
                "kind": "ratio",
                "name": f"{first} / {second}",
                "figure": figure,
                "ratio": median(each),
                "lowest": min(each),
                "highest": max(each),
                "medians": [median(side) for side in zip(*pairs, strict=True)],
            }
        )
    return found
