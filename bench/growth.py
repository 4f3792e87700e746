"""Growth: the cost of an event by number of sites, body size, connections, durability and workers.

Sites are measured in the open loop, all at the same rate: half of what one site reaches in the closed loop. Each run
sends enough events to fill and flush two segments, and its CPU time includes the flush at shutdown. The other axes are
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

TWO_SEGMENTS = 600_000  # with many sites, a segment holds up to 275,000 events of the default size
LONGEST_S = 40.0

_Step = tuple[dict[str, Any], Callable[[], Result]]
"""The labels of a run in the results, and the function that measures it."""


def growth(
    setup: Setup, shape: Shape, axes: Sequence[str], sites: Sequence[int] = SITES, longest_s: float = LONGEST_S
) -> list[Result]:
    """Return every run of those axes. A run without a result records why, and the next one starts."""
    results: list[Result] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=True
    ) as show:
        steps = [step for axis in axes for step in _steps(axis, setup, shape, sites, longest_s)]
        task = show.add_task("growth", total=len(steps))
        for labels, measure in steps:
            title = " ".join(map(str, labels.values()))
            show.update(task, description=title)
            try:
                results.append(measure())
            except NoResult as exc:
                show.console.print(f"{title}: no result: {exc}")
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
                # Several workers share all cores with the load, so the single worker they are compared with does too.
                free = replace(with_settings(setup, "server", workers=workers), cores=None)
                yield closed(free, replace(labelled(workers), load_cores=None))


def with_settings(setup: Setup, section: str, **changes: Any) -> Setup:
    """Return the setup with settings of one section replaced."""
    settings: Settings = setup.settings | {section: setup.settings.get(section, {}) | changes}
    return replace(setup, settings=settings)
