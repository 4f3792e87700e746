"""Peak: the highest throughput of a number of connections, each sending again as soon as it gets a response.

CPU time per event is the CPU time of all collector processes, from the end of the warm-up to their exit, divided by the
events answered with 201 in that time. It includes the flush at shutdown.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.requests import COUNT, write_requests
from bench.results import Result
from bench.server import MemoryWatch
from bench.subject import Collector, Setup, collecting, parts
from bench.wrk import Load, run_wrk

WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The load: what is sent, and how."""

    seconds: float = 5.0
    connections: int = 128
    size_bytes: int = 0
    seed: int = 1
    load_cores: str | None = None
    load_threads: int = 1
    folder: Path | None = None
    requests: int = COUNT
    labels: dict[str, Any] = field(default_factory=dict)


def peak(setup: Setup, shape: Shape) -> Result:
    """Run once. Raises NoResult."""
    with tempfile.TemporaryDirectory(dir=shape.folder) as name:
        folder = Path(name)
        requests = folder / "requests"
        body_bytes = write_requests(requests, shape.requests, setup.sites, shape.size_bytes, shape.seed)
        with collecting(folder, setup) as collector:

            def load(seconds: float, start: int) -> Load:
                return run_wrk(
                    collector.url,
                    requests,
                    seconds,
                    connections=shape.connections,
                    threads=shape.load_threads,
                    start=start,
                    cores=shape.load_cores,
                )

            return {**shape.labels, "body_bytes": body_bytes, **measured(collector, shape, load)}


def measured(collector: Collector, shape: Shape, load: Callable[[float, int], Load]) -> Result:
    """Measure one run, and end the collector. `load` gets the seconds, and the number of the request to start with.

    Raises NoResult.
    """
    server = collector.server
    warm = load(WARM_UP_S, 0)
    before = server.cpu_s()
    with MemoryWatch(server.pid) as memory:
        run = load(shape.seconds, warm.sent)
        serving_s = server.cpu_s() - before
    lag, committed = event_loop_lag(collector), commits(collector)
    collector.finish(warm.acknowledged + run.acknowledged)
    written = [path.stat().st_size for path in parts(collector.data_dir)]
    return {
        "connections": shape.connections,
        "sites": collector.setup.sites,
        "events": run.acknowledged,
        "refused": run.not_2xx,
        "seconds": shape.seconds,
        "per_second": run.per_second,
        "per_minute": run.per_second * 60,
        "cpu_us_per_event": (server.cpu_s() - before) / run.acknowledged * 1e6,
        "serving_cpu_us_per_event": serving_s / run.acknowledged * 1e6,
        "p50_ms": run.p50_ms,
        "p90_ms": run.p90_ms,
        "p99_ms": run.p99_ms,
        "max_ms": run.max_ms,
        "rss_peak_mb": memory.peak_bytes / 1e6,
        "parts": len(written),
        "part_bytes_per_event": sum(written) / (warm.acknowledged + run.acknowledged),
        "event_loop_lag": lag,
        "commits": committed,
    }


LAG = "collector_event_loop_lag_seconds_bucket"
COMMITS = "collector_journal_commit_duration_seconds_bucket"


def event_loop_lag(collector: Collector) -> Result | None:
    """Summarise the collector's own histogram of event-loop lag; None if this version has no such metric."""
    found = buckets(collector, LAG)
    return lag_of(found) if found else None


def commits(collector: Collector) -> Result | None:
    """Summarise the durations of commits, which every response waits for. Only a slow disk takes over 30 ms."""
    found = buckets(collector, COMMITS)
    if not found:
        return None
    count, over, at_most = beyond(found, 0.03)
    return {"count": count, "over_30_ms": over, "at_most_ms": at_most}


def lag_of(buckets: dict[float, float]) -> Result:
    """Summarise a lag histogram's buckets. `late_over_5_ms` and `late_over_20_ms` count ticks of the event loop."""
    count, over, at_most = beyond(buckets, 0.02)
    _, over_5_ms, _ = beyond(buckets, 0.005)
    return {"ticks": count, "late_over_5_ms": over_5_ms, "late_over_20_ms": over, "at_most_ms": at_most}


def beyond(buckets: dict[float, float], tolerated_s: float) -> tuple[float, float, float | None]:
    """Read cumulative buckets, keyed by upper bound in seconds.

    Returns the total count; the count above the first bound that is at least `tolerated_s`; and the bound of the
    longest value's bucket in milliseconds, or None if that is above the last finite bound.
    """
    total = buckets[float("inf")]
    tolerated = min((bound for bound in buckets if bound >= tolerated_s), default=float("inf"))
    longest = min(bound for bound, count in buckets.items() if count >= total)
    return total, total - buckets[tolerated], longest * 1e3 if longest != float("inf") else None


def buckets(collector: Collector, name: str) -> dict[float, float]:
    """Return one histogram's cumulative buckets, keyed by upper bound and summed over all workers."""
    found: dict[float, float] = {}
    for (metric, labels), value in collector.metrics().items():
        if metric == name:
            bound = float(dict(labels)["le"])
            found[bound] = found.get(bound, 0) + value
    return found
