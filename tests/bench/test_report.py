"""The report shows the results, and the committed page matches the committed results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.report import PAGE, render
from bench.stages import STAGES

PYTHON = {
    "version": "3.11.2",
    "compiler": "GCC 12.2.0",
    "profile_guided": True,
    "packages": {"aiohttp": "3.14.5", "uvloop": None},
}
ABOUT = {
    "command": "python -m bench all",
    "date": "2026-11-24 10:00 UTC",
    "commit": "abc1234",
    "cpu": "AMD EPYC",
    "cores": 2,
    "kernel": "6.1",
    "file_system": "ext2/ext3",
    "load_average": 0.1,
    "python": PYTHON,
    "collector": {"runs": "python -m collector", "version": "collector 0.1.0", "commit": "abc1234"},
    "wrk": "4.1.0",
}
LOAD = {
    "connections": 64,
    "body_bytes": 859,
    "per_second": 20_576.1,
    "per_minute": 1_234_567.0,
    "rate_per_second": 20_576.0,
    "seconds": 60.0,
    "cpu_us_per_event": 23.4,
    "p50_ms": 1.0,
    "p99_ms": 7.8,
    "max_ms": 30.0,
    "quantiles_ms": {"p50": 1.0, "p99": 7.8, "p99.9": 9.0, "p100": 30.0},
    "rss_peak_mb": 222.0,
    "parts": 5,
    "part_bytes_per_event": 31.0,
    "flushes": 2.0,
    "commits": {"count": 3000.0, "over_30_ms": 1.0, "at_most_ms": 100.0},
    "event_loop_lag": {"ticks": 5000, "late_over_5_ms": 8, "late_over_20_ms": 3, "at_most_ms": 50},
    "broken": [],
}
WAITS = {
    "p50_ms": 3.1,
    "p99_ms": 24.2,
    "p100_ms": 60.5,
    "event_loop_lag": {"ticks": 700, "late_over_5_ms": 4, "late_over_20_ms": 2, "at_most_ms": 50},
}
RESULTS: dict[str, list[dict[str, Any]]] = {
    "peak": [LOAD],
    "sustained": [LOAD | {"kind": "trial", "broken": ["p99 was 99 ms"]}, LOAD | {"kind": "held"}],
    "half": [LOAD | {"what": "1 site", "round": number, "p99_ms": p99} for number, p99 in enumerate((9.0, 7.0, 50.0))],
    "compare": [
        {"kind": "skipped", "name": "fluent-bit", "title": "Fluent Bit", "why": "fluent-bit is missing: get it"},
        {
            "kind": "versions",
            "name": "fastify",
            "title": "Fastify, ajv",
            "versions": {"Node": "20.1", "fastify": "5.0.1"},
        },
        LOAD | {"kind": "run", "name": "fastify", "title": "Fastify, ajv", "round": 0, "cpu_us_per_event": 22.2},
        LOAD | {"kind": "run", "name": "collector", "title": "the collector", "round": 0},
        {"kind": "ratio", "name": "fastify", "cpu_ratio": 1.05, "lowest": 1.01, "highest": 1.09},
    ],
    "fast-path": [
        LOAD | {"kind": "run", "name": "true", "round": 0},
        LOAD | {"kind": "run", "name": "false", "round": 0, "per_minute": 600_000.0},
        *(
            {"kind": "ratio", "name": "true / false", "figure": figure, "ratio": 0.55, "lowest": 0.51, "highest": 0.6}
            | {"medians": [23.4, 42.3]}
            for figure in ("cpu_us_per_event", "p50_ms", "p99_ms")
        ),
    ],
    "growth": [
        LOAD | {"axis": "sites", "value": 1_000, "partition_by": "date"},
        {"axis": "sites", "value": 10_000, "partition_by": "date", "no_result": "lost"},
        LOAD | {"axis": "durability", "value": "write"},
    ],
    "batch": [
        LOAD | {"kind": "run", "title": "4 MiB", "round": 0, "cpu_us_per_event": 8.5, "events_per_batch": 4_895.2},
        LOAD | {"kind": "run", "title": "single requests", "round": 0, "cpu_us_per_event": 24.6},
        LOAD | {"kind": "run", "title": "ten", "round": 0, "cpu_us_per_event": 30.2, "events_per_batch": 10.0},
        {"kind": "ratio", "title": "4 MiB", "cpu_ratio": 0.34, "lowest": 0.3, "highest": 0.38},
        {"kind": "ratio", "title": "ten", "cpu_ratio": 1.23, "lowest": 1.23, "highest": 1.23},
        {"kind": "beside", "rate_per_second": 20.0, "title": "alone", **WAITS},
        {"kind": "beside", "rate_per_second": 20.0, "title": "beside batches of 4,895", **WAITS}
        | {"batches_per_second": 5.5, "batch_p50_ms": 181.0},
    ],
    "import": [
        LOAD
        | {"events": 1_000_000, "took_s": 39.4, "until_parquet_s": 41.2, "importer_cpu_us_per_event": 5.4}
        | {"importer_rss_peak_mb": 80.0}
    ],
    "recovery": [
        {
            "events": 99,
            "took_s": 1.5,
            "s_per_million": 31.0,
            "cpu_us_per_event": 30.0,
            "segment_bytes_per_event": 1000.0,
        }
    ],
    "tracker": [
        {"kind": "bytes", "bytes": 18_900, "gzip_bytes": 9_013, "brotli_bytes": 8_180, "sha256": "abcdef012345"},
        {"kind": "versions", "Chromium": "156.0"},
        *(
            {"kind": "task", "page": "small", "phase": "click", "visits": 3, "slowdown": slowdown}
            | {"cpu_ms": 2.5 * slowdown, "wall_ms": 3.5 * slowdown, "lowest_ms": 1.0, "highest_ms": 90.0}
            for slowdown in (4, 1)
        ),
        {"kind": "inp", "page": "large", "slowdown": 4, "pairs": 3, "inp_with_ms": 56.0, "inp_without_ms": 48.0}
        | {"more_ms": 8.0, "lowest_ms": -8.0, "highest_ms": 16.0}
        | {"median_with_ms": 24.0, "median_without_ms": 24.0, "median_more_ms": 0.0},
    ],
    "micro": [{"stage": "parse", "what": "not printed", "cpu_us_per_event": 2.5}],
}


@pytest.fixture
def page(tmp_path: Path) -> str:
    """The page of RESULTS, rendered next to them."""
    for scenario, runs in RESULTS.items():
        (tmp_path / f"{scenario}.json").write_text(json.dumps(ABOUT | {"scenario": scenario, "runs": runs}))
    return render(tmp_path, tmp_path / "README.md")


def test_report_shows_measurements_and_versions(page: str) -> None:
    for text in (
        "**1.23 M requests a minute.**",
        "| 64 | 1.23 M | **23.4** | 1.0 | 7.8 | 3 of 5,000 | 222 | 31 |",
        "p99 was 99 ms",
        "| 1 site | 23.4 | 1.0 | **9.0** | 7.0, 9.0, 50.0 | 6 | 3 of 9,000 | 9 of 15,000 |",
        "| Fastify, ajv | **22.2** | 1.05 (1.01 to 1.09) |",
        "Fluent Bit was left out: fluent-bit is missing: get it.",
        "| false | **42.3** | 42.3 | 42.3 | 600,000 |",
        "| ratio, median of the pairs | 0.55 (0.51 to 0.60) |",
        "| 1,000 | date | 1.23 M | **23.4** |",
        "| no result |",
        "| single requests | 1 | **24.6** |  | 20,576 | 1.0 | 7.8 | 8 of 5,000 | 3 of 5,000 | 222 |\n"
        "| 4 MiB | 4,895 | **8.5** | **0.34 (0.30 to 0.38)** | 20,576 |",
        "| ten | 10 | **30.2** | 1.23 |",
        "(5.5 batches a second, one after the other, p50 181 ms)",
        "| beside batches of 4,895 | 3.1 | 24.2 | 60.5 | 4 of 700 | 2 of 700 |",
        "| 1,000,000 | **39** | 41 | 20,576 | 23.4 | 5.4 | 222 | 80 | 5 | 3 of 5,000 |",
        "`t.js` has 18,900 bytes, 9,013 with gzip, 8,180 with brotli. Its hash begins with abcdef012345.",
        "| clicks on two buttons | 1 | **2.5** (3.5) |\n| clicks on two buttons | 4 | **10.0** (14.0) |",
        "| 3,000 rows | 48 | 56 | **+8** (-8 to +16) | 24 | 24 | **+0** |",
        f"| `parse` | 2.50 | {STAGES['parse']} |",
        "*`python -m bench all`, 2026-11-24 10:00 UTC, commit abc1234, load average 0.1;"
        " measured python -m collector: collector 0.1.0*",
        "\n- Fastify, ajv: Node 20.1, fastify 5.0.1\n",
        "(./compare.svg)",
    ):
        assert text in page
    assert not re.search(r"\{\{|Not measured yet", page)


def test_report_leads_with_three_numbers(page: str) -> None:
    """CPU time at the peak, the rate that was held, and the median p99 at half of the peak."""
    lead = page.partition("## ")[0]
    assert ["23 us of CPU time per event", "1.23 M requests a minute", "p99 9.0 ms"] == re.findall(
        r"^- \*\*(.+?)\*\*", lead, re.MULTILINE
    )


def test_report_lists_each_machine_once_with_its_scenarios(tmp_path: Path) -> None:
    for scenario, kernel in (("peak", "6.1"), ("micro", "6.2"), ("recovery", "6.1")):
        about = ABOUT | {"scenario": scenario, "kernel": kernel, "runs": RESULTS[scenario]}
        (tmp_path / f"{scenario}.json").write_text(json.dumps(about))
    versions = "Python 3.11.2 (GCC 12.2.0, profile-guided) with aiohttp 3.14.5; wrk 4.1.0"
    assert (
        f"- **peak, recovery**: AMD EPYC, 2 cores, Linux 6.1, ext2/ext3; {versions}\n"
        f"- **micro**: AMD EPYC, 2 cores, Linux 6.2, ext2/ext3; {versions}\n"
    ) in render(tmp_path, tmp_path / "README.md")


def test_report_of_a_binary_says_so(tmp_path: Path) -> None:
    about = {"collector": {"runs": "the binary", "version": "collector 0.1.0, commit abc1234"}, "python": None}
    (tmp_path / "peak.json").write_text(json.dumps(ABOUT | about | {"scenario": "peak", "runs": RESULTS["peak"]}))
    page = render(tmp_path, tmp_path / "README.md")
    assert "; measured the binary: collector 0.1.0, commit abc1234*" in page
    assert "- **peak**: AMD EPYC, 2 cores, Linux 6.1, ext2/ext3; wrk 4.1.0\n" in page


def test_report_of_older_results_has_the_versions_of_fastify_and_fastapi(tmp_path: Path) -> None:
    about = {name: value for name, value in ABOUT.items() if name != "collector"}
    runs = [run for run in RESULTS["compare"] if run["kind"] != "versions"]
    about |= {"scenario": "compare", "rivals_python": PYTHON, "fastify": "5.0.1", "runs": runs}
    (tmp_path / "compare.json").write_text(json.dumps(about))
    assert (
        "load average 0.1; Fastify 5.0.1; FastAPI on Python 3.11.2 (GCC 12.2.0, profile-guided) with aiohttp 3.14.5*"
    ) in render(tmp_path, tmp_path / "README.md")


def test_collector_leads_the_comparison(page: str) -> None:
    assert page.index("| the collector |") < page.index("| Fastify, ajv |")


def test_every_table_row_has_as_many_cells_as_its_header(page: str) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert 1 == len({line.count("|") for line in block.splitlines()}), block


def test_section_without_results_names_the_command_that_measures_it(tmp_path: Path) -> None:
    assert "*Not measured yet: `python -m bench all --only micro`.*" in render(tmp_path, tmp_path / "README.md")


def test_committed_report_matches_the_committed_results() -> None:
    """If this fails, run `python -m bench report`."""
    assert render() == PAGE.read_text()


@pytest.mark.parametrize("name", re.findall(r"!\[.*?\]\((.+?)\)", render()))
def test_every_plot_of_the_report_is_committed(name: str) -> None:
    assert (PAGE.parent / name).exists()
