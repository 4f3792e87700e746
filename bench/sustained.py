"""Sustained: the highest rate that the collector holds, in the open loop.

A rate is held if p99 stays under 50 ms, every request gets a 201 and becomes a row, and neither memory nor the backlog
of sealed segments grows. Latency counts from when a request was due. The search bisects with short trials. The rate it
finds must then hold for the full time (a minute in the full suite); it is lowered until it does.

Memory is checked only in runs of at least 30 seconds with at least three flushes, because it always grows before the
first flush. The check compares the maximum of the last third of the run with that of the middle third.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.openloop import Paced, run_paced
from bench.peak import Shape, commits, event_loop_lag, peak
from bench.requests import write_requests
from bench.results import Result
from bench.server import MemoryWatch, NoResult
from bench.subject import Setup, collecting, parts

HELD_P99_MS = 50.0
TRIAL_S = 8.0
WARM_UP_S = 1.5
PRECISION = 1.05  # the search ends when the lowest rate not held is within 5 % of the highest one held
LOWERED = 0.92
MOST_TRIES = 8
LOWEST = 100.0  # requests per second; the search gives up below this rate
GROWN = 1.1
GROWN_BYTES = 16e6
JUDGED_S = 30.0
JUDGED_FLUSHES = 3
BACKLOG_SEGMENTS = 2  # one is being flushed, one may have just been sealed


def paced(setup: Setup, shape: Shape, rate: float, show: Progress | None = None) -> Result:
    """Run once at one rate. Raises NoResult if the numbers of rows and 201s differ."""
    with tempfile.TemporaryDirectory(dir=shape.folder) as name:
        folder = Path(name)
        requests = folder / "requests"
        body_bytes = write_requests(requests, shape.requests, setup.sites, shape.size_bytes, shape.seed)
        with collecting(folder, setup) as collector:
            server = collector.server

            def load(
                rate: float, seconds: float, start: int, on_progress: Callable[[int, float], None] | None = None
            ) -> Paced:
                return run_paced(
                    collector.url,
                    requests,
                    rate,
                    seconds,
                    connections=shape.connections,
                    start=start,
                    cores=shape.load_cores,
                    on_progress=on_progress or (lambda acknowledged, worst_ms: None),
                )

            warm = load(rate / 2, WARM_UP_S, 0)
            before = server.cpu_s()
            with MemoryWatch(server.pid) as memory, _shown(show, rate, shape.seconds) as on_progress:
                run = load(rate, shape.seconds, warm.sent, on_progress)
                serving_s = server.cpu_s() - before
            samples = collector.metrics()
            lag, committed = event_loop_lag(collector), commits(collector)
            collector.finish(warm.acknowledged + run.acknowledged)
            written = [path.stat().st_size for path in parts(collector.data_dir)]
    result: Result = {
        **shape.labels,
        "body_bytes": body_bytes,
        "connections": shape.connections,
        "sites": setup.sites,
        "rate_per_second": rate,
        "per_minute": run.acknowledged / shape.seconds * 60,
        "seconds": shape.seconds,
        "events": run.acknowledged,
        "refused": run.refused,
        "failed": run.failed,
        "unsent": run.planned - run.sent,
        "cpu_us_per_event": (server.cpu_s() - before) / max(1, run.acknowledged) * 1e6,
        "serving_cpu_us_per_event": serving_s / max(1, run.acknowledged) * 1e6,
        "quantiles_ms": run.quantiles,
        "p50_ms": run.quantiles["p50"],
        "p99_ms": run.p99_ms,
        "p99_each_second_ms": run.p99_each_second,
        "generator_late_ms": run.late_ms,
        "generator_cpu": run.generator_cpu,
        "rss_peak_mb": memory.peak_bytes / 1e6,
        "rss_mb": [(round(at, 2), round(size / 1e6, 1)) for at, size in memory.samples],
        "flushes": samples.get(("collector_flushes_total", (("outcome", "published"),)), 0),
        "segments_waiting": samples.get(("collector_journal_segments", ()), 0),
        "parts": len(written),
        "part_bytes_per_event": sum(written) / max(1, warm.acknowledged + run.acknowledged),
        "event_loop_lag": lag,
        "commits": committed,
    }
    result["broken"] = broken(result)
    return result


def broken(run: Result) -> list[str]:
    """Return why the rate was not held; an empty list if it was."""
    found = []
    if not run["p99_ms"] < HELD_P99_MS:
        found.append(f"p99 was {run['p99_ms']:.0f} ms")
    if run["refused"] or run["failed"] or run["unsent"]:
        found.append(f"{run['refused']} refused, {run['failed']} failed, {run['unsent']} not sent")
    if run["segments_waiting"] > BACKLOG_SEGMENTS:
        found.append(f"{run['segments_waiting']:.0f} segments wait to be flushed")
    judged = run["seconds"] >= JUDGED_S and run["flushes"] >= JUDGED_FLUSHES
    if judged and grows([size for _, size in run["rss_mb"]]):
        found.append("memory grows")
    return found


def grows(rss_mb: list[float]) -> bool:
    """Return whether the maximum of the last third exceeds that of the middle third by over 10 % and 16 MB."""
    third = len(rss_mb) // 3
    if not third:
        return False
    middle, last = max(rss_mb[third : 2 * third]), max(rss_mb[2 * third :])
    return last > GROWN * middle and last - middle > GROWN_BYTES / 1e6


def search(low: float, high: float, held: Callable[[float], bool]) -> float:
    """Find the highest rate held, within 5 %, assuming that `high` is not held. Returns 0 if no rate is."""
    best = 0.0
    while high > low * PRECISION:
        rate = (low + high) / 2 if best else low
        if held(rate):
            best = low = rate
        elif best:
            high = rate
        else:
            low, high = low / 2, low
            if low < LOWEST:
                return 0.0
    return best


def sustained(setup: Setup, shape: Shape, trial_s: float = TRIAL_S) -> list[Result]:
    """Return the trials of the search, and last the full-length run whose rate was held. Raises NoResult."""
    runs: list[Result] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[seen]}"), TimeElapsedColumn()
    ) as show:
        first = peak(setup, replace(shape, seconds=min(4.0, shape.seconds)))
        top: float = first["per_second"]

        def held(rate: float) -> bool:
            run = paced(setup, replace(shape, seconds=min(trial_s, shape.seconds)), rate, show)
            runs.append({"kind": "trial", **run})
            _log(show, run)
            return not run["broken"]

        rate = search(0.7 * top, 1.1 * top, held)
        for _ in range(MOST_TRIES):
            if rate < LOWEST:
                break
            run = paced(setup, shape, rate, show)
            runs.append({"kind": "trial" if run["broken"] else "held", "closed_loop_per_second": top, **run})
            _log(show, run)
            if not run["broken"]:
                return runs
            rate *= LOWERED
    raise NoResult("no rate was held: " + "; ".join(runs[-1]["broken"]))


def _log(show: Progress, run: Result) -> None:
    """Print one line per run; without a terminal there is no progress bar."""
    outcome = "; ".join(run["broken"]) or f"held, p99 {run['p99_ms']:.1f} ms, {run['cpu_us_per_event']:.1f} us/event"
    show.console.print(f"{60 * run['rate_per_second']:>11,.0f} requests/min for {run['seconds']:g} s: {outcome}")


@contextmanager
def _shown(show: Progress | None, rate: float, seconds: float) -> Iterator[Callable[[int, float], None]]:
    """Show a run's progress bar, if there is a display."""
    if show is None:
        yield lambda acknowledged, worst_ms: None
        return
    task = show.add_task(f"{60 * rate:>11,.0f} requests/min", total=rate * seconds, seen="")

    def on_progress(acknowledged: int, worst_ms: float) -> None:
        show.update(task, completed=acknowledged, seen=f"{acknowledged:,} acknowledged, slowest {worst_ms:.0f} ms")

    try:
        yield on_progress
    finally:
        show.stop_task(task)
