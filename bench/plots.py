"""Plots of the results, as SVG files whose bytes depend only on the results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

from bench.results import Result

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "bench", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False})

from matplotlib import pyplot as plt  # noqa: E402 - import after choosing the backend

OURS, OTHERS, SECOND = "#0b6e4f", "#9aa5b1", "#c8553d"


def plot(results: Mapping[str, Sequence[Result]], folder: Path) -> None:
    """Draw every plot that has results."""
    if "compare" in results:
        _save(_compare(results["compare"]), folder / "compare.svg")
    held = [run for run in results.get("sustained", ()) if run["kind"] == "held"]
    if held:
        _save(_sustained(held[-1]), folder / "sustained.svg")
    sites = [run for run in results.get("growth", ()) if run["axis"] == "sites" and "no_result" not in run]
    if sites:
        _save(_sites(sites), folder / "sites.svg")


def _compare(runs: Sequence[Result]) -> Any:
    of: dict[str, list[float]] = {}
    for run in runs:
        if run["kind"] == "run":
            of.setdefault(run["title"], []).append(run["cpu_us_per_event"])
    middle = sorted(((median(each), title) for title, each in of.items()), reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.5 + 0.5 * len(middle)))
    colours = [OURS if title == "the collector" else OTHERS for _, title in middle]
    bars = axes.barh([title for _, title in middle], [cpu_us for cpu_us, _ in middle], color=colours)
    axes.bar_label(bars, fmt=" %.1f")
    axes.set_xlabel("CPU time per event, us (less is better)")
    return figure


def _sustained(run: Result) -> Any:
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 4.5), sharex=True)
    above.plot(range(1, len(run["p99_each_second_ms"]) + 1), run["p99_each_second_ms"], color=OURS)
    above.axhline(50, color=SECOND, linewidth=0.8, linestyle="--")
    above.set_ylabel("p99 of each second, ms")
    above.set_ylim(bottom=0)
    above.set_title(f"{run['rate_per_second'] * 60:,.0f} requests a minute", loc="left")
    below.plot([at for at, _ in run["rss_mb"]], [size for _, size in run["rss_mb"]], color=OURS)
    below.set_ylabel("resident memory, MB")
    below.set_ylim(bottom=0)
    below.set_xlabel("seconds")
    return figure


def _sites(runs: Sequence[Result]) -> Any:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    for partition_by, colour in (("site, date", SECOND), ("date", OURS)):
        of = [run for run in runs if run["partition_by"] == partition_by or run["value"] == 1]
        sites = [run["value"] for run in of]
        left.plot(sites, [run["cpu_us_per_event"] for run in of], "o-", color=colour, label=f"by {partition_by}")
        right.plot(sites, [run["p99_ms"] for run in of], "o-", color=colour, label=f"by {partition_by}")
    left.set_ylabel("CPU time per event, us")
    right.set_ylabel("p99, ms")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("sites")
        axes.legend(frameon=False)
    return figure


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
