"""The tables of `tracker` for the report."""

from collections.abc import Sequence

from bench.results import Result

PHASES = {
    "evaluation": "evaluate the script",
    "start": "longest task until the pageview is sent",
    "click": "clicks on two buttons",
    "row": "click in the middle of 3,000 rows",
    "key": "type into a search field",
    "form": "fill in and send the form",
    "scroll": "twelve turns of the wheel",
    "route": "path changed by the page",
    "hidden": "another tab comes to the front",
    "leave": "the page is left",
}
PAGES = {"small": "small page", "large": "3,000 rows", "form": "3,000 fields"}

Rows = list[list[str]]


def sizes(runs: Sequence[Result]) -> str:
    """The bytes of the script, and what it ran in."""
    about = next(run for run in runs if run["kind"] == "bytes")
    browser = next(run["Chromium"] for run in runs if run["kind"] == "versions")
    compressed = "".join(
        f", {about[f'{form}_bytes']:,} with {form}" for form in ("gzip", "brotli") if f"{form}_bytes" in about
    )
    return (
        f"`t.js` has {about['bytes']:,} bytes{compressed}. Its hash begins with {about['sha256']}. Chromium {browser}."
    )


def tasks(runs: Sequence[Result]) -> tuple[list[str], Rows]:
    """One row for each phase and slowdown; a cell for each page has CPU time and wall time."""
    found = {(run["phase"], run["slowdown"], run["page"]): run for run in runs if run["kind"] == "task"}
    pages = [page for page in PAGES if any(page == of for _, _, of in found)]
    slowdowns = sorted({slowdown for _, slowdown, _ in found})
    rows: Rows = []
    for phase, what in PHASES.items():
        for slowdown in slowdowns:
            cells = [found.get((phase, slowdown, page)) for page in pages]
            # At full speed a visit is a start and an end.
            if any(cells) and not (slowdown == 1 and phase == "leave"):
                rows.append([what, f"{slowdown}", *map(_cell, cells)])
    return ["", "CPU slower, times", *(PAGES[page] for page in pages)], rows


def interactions(runs: Sequence[Result]) -> tuple[list[str], Rows]:
    """One row for each page: the INP with and without the tracker."""
    rows = [
        [
            PAGES[run["page"]],
            f"{run['inp_without_ms']:.0f}",
            f"{run['inp_with_ms']:.0f}",
            f"**{run['more_ms']:+.0f}** ({run['lowest_ms']:+.0f} to {run['highest_ms']:+.0f})",
            f"{run['median_without_ms']:.0f}",
            f"{run['median_with_ms']:.0f}",
            f"**{run['median_more_ms']:+.0f}**",
        ]
        for run in runs
        if run["kind"] == "inp"
    ]
    head = [
        "",
        "INP without, ms",
        "INP with",
        "difference (extremes)",
        "median without, ms",
        "median with",
        "difference",
    ]
    return head, rows


def _cell(run: Result | None) -> str:
    return "" if run is None else f"**{run['cpu_ms']:.1f}** ({run['wall_ms']:.1f})"
