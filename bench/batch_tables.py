"""The tables of `batch` and `import` for the report."""

from collections.abc import Sequence
from statistics import median

from bench.markdown import bold, share, spread
from bench.results import Result

Table = tuple[list[str], list[list[str]]]


def cost(runs: Sequence[Result]) -> Table:
    """One row for the single requests, and one for each form of batch. The medians of the rounds, if not a sum."""
    ratio = {run["title"]: run for run in runs if run["kind"] == "ratio"}
    of: dict[str, list[Result]] = {}
    for run in runs:
        if run["kind"] == "run":
            of.setdefault(run["title"], []).append(run)
    rows = []
    for title in sorted(of, key=lambda title: title in ratio):  # single requests have no ratio, and lead
        each = of[title]
        events = each[0].get("events_per_batch", 1)
        rows.append(
            [
                title,
                f"{events:,.0f}",
                f"**{median(run['cpu_us_per_event'] for run in each):.1f}**",
                bold(spread(ratio[title], "cpu_ratio"), title == next(iter(ratio))) if title in ratio else "",
                f"{median(run['per_second'] for run in each):,.0f}",
                f"{median(run['p50_ms'] for run in each):.1f}",
                f"{median(run['p99_ms'] for run in each):.1f}",
                share(each, "event_loop_lag", "late_over_5_ms", "ticks"),
                share(each, "event_loop_lag", "late_over_20_ms", "ticks"),
                f"{median(run['rss_peak_mb'] for run in each):.0f}",
            ]
        )
    head = ["batches of", "events each", "CPU us/event", "batch / single", "events/s", "p50 ms", "p99 ms"]
    return [*head, "loop over 5 ms", "loop over 20 ms", "RSS MB"], rows


def beside(runs: Sequence[Result]) -> Table:
    """How long single requests wait, alone and beside batches."""
    rows = [
        [
            run["title"],
            *(f"{run[name]:.1f}" for name in ("p50_ms", "p99_ms", "p100_ms")),
            share([run], "event_loop_lag", "late_over_5_ms", "ticks"),
            share([run], "event_loop_lag", "late_over_20_ms", "ticks"),
        ]
        for run in runs
        if run["kind"] == "beside"
    ]
    return ["single requests", "p50 ms", "p99 ms", "max ms", "loop over 5 ms", "loop over 20 ms"], rows


def imports(runs: Sequence[Result]) -> Table:
    """One row for each run."""
    rows = [
        [
            f"{run['events']:,}",
            f"**{run['took_s']:.0f}**",
            f"{run['until_parquet_s']:.0f}",
            f"{run['per_second']:,.0f}",
            f"{run['cpu_us_per_event']:.1f}",
            f"{run['importer_cpu_us_per_event']:.1f}",
            f"{run['rss_peak_mb']:.0f}",
            f"{run['importer_rss_peak_mb']:.0f}",
            f"{run['parts']:,}",
            share([run], "event_loop_lag", "late_over_20_ms", "ticks"),
        ]
        for run in runs
    ]
    head = ["events", "seconds", "until all is in Parquet", "events/s", "CPU us/event, collector", "import command"]
    return [*head, "RSS MB, collector", "import command", "parts", "loop over 20 ms"], rows
