"""Growth: what an event costs as there are more sites, larger events, more connections, other durabilities, more cores.

Sites are measured in the open loop, all at one rate: half of what one site reaches in the closed loop. So many events
are sent that two segments fill and are flushed; what a stop still has to write is counted too. The other axes are
measured in the closed loop, as in bench/peak.py.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.peak import Shape, peak
from bench.results import Result
from bench.server import NoResult
from bench.subject import Settings, Setup
from bench.sustained import paced

SITES = (1, 100, 300, 1_000, 10_000)
SIZES = (100, 900, 8_192)
CONNECTIONS = (10, 100, 1_000)
DURABILITIES = ("fsync", "write", "memory")
PARTITIONS = (["site", "date"], ["date"])
AXES = ("sites", "size", "connections", "durability", "workers")

TWO_SEGMENTS = 100_000  # events of the default size and settings
LONGEST_S = 40.0

_Step = tuple[dict[str, Any], Callable[[], Result]]
"""What is measured, as the result tells it, and the measuring."""


def growth(
    setup: Setup, shape: Shape, axes: Sequence[str], sites: Sequence[int] = SITES, longest_s: float = LONGEST_S
) -> list[Result]:
    """Every run of those axes. A run that has no result says why, and the others go on."""
    results: list[Result] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=True
    ) as show:
        steps = [step for axis in axes for step in _steps(axis, setup, shape, sites, longest_s)]
        task = show.add_task("growth", total=len(steps))
        for labels, measure in steps:
            words = " ".join(map(str, labels.values()))
            show.update(task, description=words)
            try:
                results.append(measure())
            except NoResult as exc:
                show.console.print(f"{words}: no result: {exc}")
                results.append({**labels, "no_result": str(exc)})
            show.advance(task)
    return results


def _steps(axis: str, setup: Setup, shape: Shape, sites: Sequence[int], longest_s: float) -> Iterator[_Step]:
    def labelled(value: Any, **labels: Any) -> Shape:
        return replace(shape, labels={"axis": axis, "value": value, **labels})

    def closed(setup: Setup, shape: Shape) -> _Step:
        return shape.labels, lambda: peak(setup, shape)

    match axis:
        case "sites":
            rate: list[float] = []

            def at_half_peak(setup: Setup, shape: Shape) -> Result:
                if not rate:
                    one = peak(replace(setup, sites=1), replace(shape, seconds=min(4.0, shape.seconds), labels={}))
                    rate.append(one["per_second"] / 2)
                seconds = max(shape.seconds, min(longest_s, TWO_SEGMENTS / rate[0]))
                return paced(setup, replace(shape, seconds=seconds), rate[0])

            for count in sites:
                for partition_by in PARTITIONS if count > 1 else PARTITIONS[:1]:
                    many = replace(with_settings(setup, "storage", partition_by=partition_by), sites=count)
                    label = labelled(count, partition_by=", ".join(partition_by))
                    yield label.labels, partial(at_half_peak, many, label)
        case "size":
            for size in SIZES:
                yield closed(setup, replace(labelled(size), size_bytes=size))
        case "connections":
            for count in CONNECTIONS:
                yield closed(setup, replace(labelled(count), connections=count))
        case "durability":
            for durability in DURABILITIES:
                yield closed(with_settings(setup, "storage", durability=durability), labelled(durability))
        case "workers":
            for workers in range(1, (os.cpu_count() or 1) + 1):
                # Several workers and the load share all cores; so does the one that they are compared with.
                free = replace(with_settings(setup, "server", workers=workers), cores=None)
                yield closed(free, replace(labelled(workers), load_cores=None))


def with_settings(setup: Setup, section: str, **changes: Any) -> Setup:
    settings: Settings = setup.settings | {section: setup.settings.get(section, {}) | changes}
    return replace(setup, settings=settings)
