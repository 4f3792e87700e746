"""How the report writes tables and figures."""

from collections.abc import Sequence

from bench.results import Result


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table with the first column left-aligned and the others right-aligned."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(run: Result, name: str) -> str:
    """Format a ratio, with the extremes if they differ."""
    extremes = f" ({run['lowest']:.2f} to {run['highest']:.2f})" if run["lowest"] < run["highest"] else ""
    return f"{run[name]:.2f}{extremes}"


def millions(per_minute: float) -> str:
    return f"{per_minute / 1e6:.2f} M" if per_minute >= 1e6 else f"{per_minute:,.0f}"


def bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


def late(run: Result) -> str:
    """Format how many ticks of the event loop were over 20 ms late, as counted by the collector."""
    return share([run], "event_loop_lag", "late_over_20_ms", "ticks")


def share(runs: Sequence[Result], what: str, part: str, total: str) -> str:
    """Format `part` of `total`, summed over the runs; `-` if a run did not count them."""
    if not all(run.get(what) for run in runs):
        return "-"
    return f"{sum(run[what][part] for run in runs):,.0f} of {sum(run[what][total] for run in runs):,.0f}"
