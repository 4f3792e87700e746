"""The report: generates `bench/README.md` from its template and the results, and draws the plots.

Rendering the page needs only the JSON files; the plots need matplotlib.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench.batch_tables import beside, cost, imports
from bench.markdown import bold, late, millions, share, spread, table
from bench.results import FOLDER, Result
from bench.stages import STAGES
from bench.sustained import HELD_P99_MS
from bench.tracker_tables import interactions, sizes, tasks

TEMPLATE = Path(__file__).with_name("README.template.md")
PAGE = Path(__file__).with_name("README.md")
SCENARIOS = (
    "peak",
    "sustained",
    "half",
    "compare",
    "fast-path",
    "growth",
    "batch",
    "import",
    "recovery",
    "micro",
    "tracker",
)


def render(results: Path = FOLDER, page: Path = PAGE) -> str:
    """Render the page for the location `page`; links to plots are relative to it."""
    text = TEMPLATE.read_text()
    where = os.path.relpath(results, page.parent)
    measured = _measured(results)
    for scenario in SCENARIOS:
        section = f"*Not measured yet: `python -m bench all --only {scenario}`.*"
        if scenario in measured:
            about = measured[scenario]
            section = f"{_SECTIONS[scenario](about['runs'], where)}\n\n*{_provenance(about)}*"
        text = text.replace(f"{{{{{scenario}}}}}", section)
    return text.replace("{{summary}}", _summary(measured)).replace("{{machines}}", _machines(measured))


def write(results: Path = FOLDER, page: Path = PAGE) -> None:
    """Write the page, and the plots next to the results."""
    from bench.plots import plot  # imported here because it needs matplotlib

    plot({scenario: about["runs"] for scenario, about in _measured(results).items()}, results)
    page.write_text(render(results, page))


def _measured(results: Path) -> dict[str, Result]:
    """Load the results of every scenario that has some."""
    return {
        scenario: json.loads(path.read_text())
        for scenario in SCENARIOS
        if (path := results / f"{scenario}.json").exists()
    }


def _summary(measured: dict[str, Result]) -> str:
    """The three numbers that the page leads with: cost, sustained rate and latency."""
    found = []
    if "peak" in measured:
        cost_us = median(run["cpu_us_per_event"] for run in measured["peak"]["runs"])
        found.append(f"**{cost_us:.0f} us of CPU time per event** at full load (`peak`).")
    held = [run for run in measured.get("sustained", {"runs": []})["runs"] if run["kind"] == "held"]
    if held:
        rate = millions(held[-1]["rate_per_second"] * 60)
        limits = f"{held[-1]['seconds']:.0f} s with p99 under {HELD_P99_MS:.0f} ms"
        found.append(f"**{rate} requests a minute** held for {limits} (`sustained`).")
    if "half" in measured:
        runs = measured["half"]["runs"]
        p99_ms = median(run["p99_ms"] for run in runs if run["what"] == runs[0]["what"])
        rate = millions(runs[0]["rate_per_second"] * 60)
        found.append(f"**p99 {p99_ms:.1f} ms** at half the peak rate, {rate} requests a minute (`half`).")
    return "\n".join(f"- {line}" for line in found) or "*Not measured yet: `python -m bench all`.*"


def _machines(measured: dict[str, Result]) -> str:
    """One line for each machine and set of versions, with the scenarios measured there."""
    scenarios: dict[str, list[str]] = {}
    for scenario, about in measured.items():
        tools = [f"{name} {about[name]}" for name in ("wrk", "node", "nginx") if about.get(name)]
        program = [_python(about["python"])] if about["python"] else []  # None for the binary
        machine = f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['file_system']}"
        scenarios.setdefault("; ".join([machine, *program, *tools]), []).append(scenario)
    return "\n".join(f"- **{', '.join(names)}**: {machine}" for machine, names in scenarios.items())


def _provenance(about: Result) -> str:
    """How, when, on which commit and with which collector the scenario was measured."""
    notes = [f"`{about['command']}`, {about['date']}, commit {about['commit']}, load average {about['load_average']}"]
    if "collector" in about:
        notes.append(f"measured {about['collector']['runs']}: {about['collector']['version']}")
    if about["scenario"] == "compare" and "fastify" in about:  # older results have no versions among the runs
        notes.append(f"Fastify {about['fastify']}")
        notes.append(f"FastAPI on {_python(about['rivals_python'])}")
    return "; ".join(notes)


def _python(python: Result) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in python["packages"].items() if version)
    # Printed only if known. Debian's Python is profile-guided, but its sysconfig describes another build that is not.
    build = ", profile-guided" if python["profile_guided"] else ""
    return f"Python {python['version']} ({python['compiler']}{build}) with {packages}"


def _peak(runs: Sequence[Result], where: str) -> str:
    return table(
        [
            "connections",
            "requests/min",
            "CPU us/event",
            "p50 ms",
            "p99 ms",
            "loop over 20 ms",
            "RSS MB",
            "B/event in parts",
        ],
        [
            [
                f"{run['connections']:,}",
                millions(run["per_minute"]),
                f"**{run['cpu_us_per_event']:.1f}**",
                f"{run['p50_ms']:.1f}",
                f"{run['p99_ms']:.1f}",
                late(run),
                f"{run['rss_peak_mb']:.0f}",
                f"{run['part_bytes_per_event']:.0f}",
            ]
            for run in runs
        ],
    )


def _sustained(runs: Sequence[Result], where: str) -> str:
    rows = []
    for run in runs:
        quantiles = run["quantiles_ms"]
        rows.append(
            [
                "**held**" if run["kind"] == "held" else ("held in a trial" if not run["broken"] else run["broken"][0]),
                millions(run["rate_per_second"] * 60),
                f"{run['seconds']:.0f}",
                *(bold(f"{run['cpu_us_per_event']:.1f}", run["kind"] == "held"),),
                *(f"{quantiles[name]:.1f}" for name in ("p50", "p99", "p99.9", "p100")),
                late(run),
                f"{run['rss_peak_mb']:.0f}",
            ]
        )
    held = [run for run in runs if run["kind"] == "held"]
    result = f"**{millions(held[-1]['rate_per_second'] * 60)} requests a minute.**\n\n" if held else ""
    head = ["", "requests/min", "s", "CPU us/event", "p50 ms", "p99", "p99.9", "max", "loop over 20 ms", "RSS MB"]
    plot = f"\n\n![Latency and memory over time]({where}/sustained.svg)" if held else ""
    return result + table(head, rows) + plot


def _half(runs: Sequence[Result], where: str) -> str:
    rows = []
    for what in dict.fromkeys(run["what"] for run in runs):
        of = [run for run in runs if run["what"] == what]
        p99s = sorted(run["p99_ms"] for run in of)
        rows.append(
            [
                what,
                f"{median(run['cpu_us_per_event'] for run in of):.1f}",
                f"{median(run['quantiles_ms']['p50'] for run in of):.1f}",
                f"**{median(p99s):.1f}**",
                ", ".join(f"{p99:.1f}" for p99 in p99s),
                f"{sum(run['flushes'] for run in of):.0f}",
                share(of, "commits", "over_30_ms", "count"),
                share(of, "event_loop_lag", "late_over_20_ms", "ticks"),
            ]
        )
    head = ["", "CPU us/event", "p50 ms", "p99 ms, median", "p99 of each run", "flushes"]
    head += ["commits over 30 ms", "loop over 20 ms"]
    return f"At {millions(runs[0]['rate_per_second'] * 60)} requests a minute:\n\n{table(head, rows)}"


def _compare(runs: Sequence[Result], where: str) -> str:
    ratio = {run["name"]: run for run in runs if run["kind"] == "ratio"}
    of: dict[str, list[Result]] = {}
    for run in runs:
        if run["kind"] == "run":
            of.setdefault(run["name"], []).append(run)
    rows = []
    for name, each in sorted(of.items(), key=lambda item: item[0] != "collector"):
        middle = sorted(each, key=lambda run: run["cpu_us_per_event"])[len(each) // 2]
        ours = ratio.get(name)
        rows.append(
            [
                middle["title"],
                f"**{middle['cpu_us_per_event']:.1f}**",
                spread(ours, "cpu_ratio") if ours else "",
                millions(middle["per_minute"]),
                f"{middle['p99_ms']:.1f}",
                f"{middle['rss_peak_mb']:.0f}",
            ]
        )
    skipped = "".join(f"\n\n{run['title']} was left out: {run['why']}." for run in runs if run["kind"] == "skipped")
    head = ["", "CPU us/event", "collector / this", "requests/min", "p99 ms", "RSS MB"]
    versions = "".join(
        f"\n- {run['title']}: {', '.join(f'{name} {version}' for name, version in run['versions'].items())}"
        for run in runs
        if run["kind"] == "versions"
    )
    measured = f"\n\nVersions:\n{versions}" if versions else ""
    return f"{table(head, rows)}{skipped}{measured}\n\n![CPU time per event]({where}/compare.svg)"


def _fast_path(runs: Sequence[Result], where: str) -> str:
    ratios = [run for run in runs if run["kind"] == "ratio"]
    rows = []
    for side, name in enumerate(ratios[0]["name"].split(" / ")):
        medians = (bold(f"{run['medians'][side]:.1f}", run["figure"] == "cpu_us_per_event") for run in ratios)
        rows.append([name, *medians, millions(median(run["per_minute"] for run in runs if run["name"] == name))])
    rows.append(["ratio, median of the pairs", *(spread(run, "ratio") for run in ratios), ""])
    return table(["", "CPU us/event", "p50 ms", "p99 ms", "requests/min"], rows)


_AXES = {
    "sites": "**Sites**, open loop, each run at half of the peak rate of one site:",
    "size": "**Body size**, closed loop:",
    "connections": "**Connections**, closed loop:",
    "durability": "**Durability**, closed loop:",
    "workers": "**Workers**, closed loop; collector and load share all cores:",
}


def _growth(runs: Sequence[Result], where: str) -> str:
    found = []
    for axis, title in _AXES.items():
        of = [run for run in runs if run["axis"] == axis]
        if of:
            found += [title, table(*_axis(axis, of))]
            if axis == "sites":
                found.append(f"![CPU time per event and p99 by number of sites]({where}/sites.svg)")
    return "\n\n".join(found)


def _axis(axis: str, runs: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    partitions = axis == "sites"
    head = [axis, *(["partition_by"] if partitions else []), "requests/min", "CPU us/event", "p99 ms", "max ms"]
    head += ["loop over 20 ms", "RSS MB", "parts", "B/event in parts"]
    if axis == "size":
        head[0] = "bytes, mean"
    rows = []
    for run in runs:
        if "no_result" in run:
            labels = [f"{run['value']}", *([run["partition_by"]] if partitions else [])]
            rows.append([*labels, *(len(head) - len(labels) - 1) * ["-"], "no result"])
            continue
        value = run["body_bytes"] if axis == "size" else run["value"]
        rows.append(
            [
                value if isinstance(value, str) else f"{value:,}",
                *([run["partition_by"]] if partitions else []),
                millions(run["per_minute"]),
                f"**{run['cpu_us_per_event']:.1f}**",
                f"{run['p99_ms']:.1f}",
                f"{run['quantiles_ms']['p100'] if partitions else run['max_ms']:.0f}",
                late(run),
                f"{run['rss_peak_mb']:.0f}",
                f"{run['parts']:,}",
                f"{run['part_bytes_per_event']:.0f}",
            ]
        )
    return head, rows


def _batch(runs: Sequence[Result], where: str) -> str:
    both = next(run for run in runs if "batches_per_second" in run)
    title = (
        f"**Single requests, {both['rate_per_second']:.0f} a second**, without batches and beside them "
        f"({both['batches_per_second']:.1f} batches a second, one after the other, p50 {both['batch_p50_ms']:.0f} ms):"
    )
    return "\n\n".join((table(*cost(runs)), title, table(*beside(runs))))


def _import(runs: Sequence[Result], where: str) -> str:
    return table(*imports(runs))


def _recovery(runs: Sequence[Result], where: str) -> str:
    return table(
        ["events", "seconds", "seconds per million", "CPU us/event", "B/event in the journal"],
        [
            [
                f"{run['events']:,}",
                f"{run['took_s']:.1f}",
                f"**{run['s_per_million']:.0f}**",
                f"{run['cpu_us_per_event']:.1f}",
                f"{run['segment_bytes_per_event']:.0f}",
            ]
            for run in runs
        ],
    )


def _micro(runs: Sequence[Result], where: str) -> str:
    rows = [[f"`{run['stage']}`", f"{run['cpu_us_per_event']:.2f}", STAGES[run["stage"]]] for run in runs]
    return table(["stage", "CPU us/event", "what it does"], rows)


def _tracker(runs: Sequence[Result], where: str) -> str:
    found = [
        sizes(runs),
        "**Tasks**: CPU ms of the longest, median of the visits, and in brackets its wall time:",
        table(*tasks(runs)),
    ]
    head, rows = interactions(runs)
    if rows:  # the quick pass has none
        found += ["**Interactions**, CPU four times slower, median of the pairs:", table(head, rows)]
    return "\n\n".join(found)


_SECTIONS: dict[str, Callable[[Sequence[Result], str], str]] = {
    "peak": _peak,
    "sustained": _sustained,
    "half": _half,
    "compare": _compare,
    "fast-path": _fast_path,
    "growth": _growth,
    "batch": _batch,
    "import": _import,
    "recovery": _recovery,
    "micro": _micro,
    "tracker": _tracker,
}
