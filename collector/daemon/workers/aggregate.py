"""Aggregation: merges the metrics of several processes into one page.

Counters, histograms and most gauges are added up. For a few gauges a sum would be wrong, so the maximum or minimum
counts. A process sends each metric family as JSON:

    [name, type, help, [[sample name, labels, value], ...]]
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ujson
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

Family = list[Any]
"""A metric family in the form above."""


def _add(one: float, other: float) -> float:
    return one + other


# The collector is ready while any worker is (workers/supervisor.py). The earliest start time is the supervisor's.
_NOT_ADDED: dict[str, Callable[[float, float], float]] = {
    "collector_ready": max,
    "collector_build_info": max,
    "collector_disk_free_bytes": min,
    "collector_disk_min_free_bytes": max,
    "python_info": max,
    "process_max_fds": max,
    "process_start_time_seconds": min,
}

# Encoding holds the GIL: 0.5 ms for 1,000 samples, but 10 ms for all of 18,000 at once.
_SAMPLES_AT_ONCE = 1_000


def families(metrics: Iterable[Metric]) -> list[Family]:
    """The metrics of this process as families."""
    return [
        [metric.name, metric.type, metric.documentation, [[s.name, s.labels, s.value] for s in metric.samples]]
        for metric in metrics
    ]


def encode(pages: list[Family]) -> str:
    """The families as JSON. Encodes in pieces, so a thread that calls this does not block the event loop."""
    return "[" + ",".join(_encode(*family) for family in pages) + "]"


def _encode(name: str, kind: str, text: str, samples: list[Any]) -> str:
    starts = range(0, len(samples), _SAMPLES_AT_ONCE)
    pieces = [ujson.dumps(samples[at : at + _SAMPLES_AT_ONCE])[1:-1] for at in starts]
    return f"{ujson.dumps([name, kind, text])[:-1]},[{','.join(pieces)}]]"


def counts(page: list[Family]) -> list[Family]:
    """The families that stay valid after a process dies: counters and histograms, not gauges."""
    return [family for family in page if family[1] in ("counter", "histogram")]


def aggregate(pages: Iterable[list[Family]]) -> list[Family]:
    """Merge several pages into one."""
    found: dict[str, tuple[str, str, dict[tuple[Any, ...], float]]] = {}
    for page in pages:
        for name, kind, text, samples in page:
            _, _, values = found.setdefault(name, (kind, text, {}))
            merge = _NOT_ADDED.get(name, _add)
            for sample, labels, value in samples:
                key = (sample, *labels.items())
                values[key] = merge(values[key], value) if key in values else value
    return [
        [name, kind, text, [[sample, dict(labels), value] for (sample, *labels), value in values.items()]]
        for name, (kind, text, values) in found.items()
    ]


def to_metrics(page: list[Family]) -> Iterator[Metric]:
    """The families as objects that prometheus_client can render."""
    for name, kind, text, samples in page:
        metric = Metric(name, text, kind)
        metric.samples = [Sample(*sample) for sample in samples]
        yield metric
