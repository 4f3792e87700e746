"""The report says what the results say, and the committed one is made of the committed results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.report import PAGE, render

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
    "rivals_python": PYTHON,
    "fastify": "5.0.1",
    "wrk": "4.1.0",
    "node": None,
    "nginx": None,
}
LOAD = {
    "connections": 64,
    "body_bytes": 859,
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
    "event_loop_lag": {"ticks": 5000, "late_over_20_ms": 3, "at_most_ms": 50},
    "broken": [],
}
RESULTS: dict[str, list[dict[str, Any]]] = {
    "peak": [LOAD],
    "sustained": [LOAD | {"kind": "trial", "broken": ["p99 was 99 ms"]}, LOAD | {"kind": "held"}],
    "half": [LOAD | {"what": "1 site", "round": number, "p99_ms": p99} for number, p99 in enumerate((9.0, 7.0, 50.0))],
    "compare": [
        {"kind": "skipped", "name": "fluent-bit", "title": "Fluent Bit", "why": "fluent-bit is missing: get it"},
        LOAD | {"kind": "run", "name": "collector", "title": "the collector", "round": 0},
        LOAD | {"kind": "run", "name": "fastify", "title": "Fastify, ajv", "round": 0, "cpu_us_per_event": 22.2},
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
    "recovery": [
        {
            "events": 99,
            "took_s": 1.5,
            "s_per_million": 31.0,
            "cpu_us_per_event": 30.0,
            "segment_bytes_per_event": 1000.0,
        }
    ],
    "micro": [{"stage": "parse", "what": "ujson", "cpu_us_per_event": 2.5}],
}


def test_report_says_what_was_measured_and_where(tmp_path: Path) -> None:
    for scenario, runs in RESULTS.items():
        (tmp_path / f"{scenario}.json").write_text(json.dumps(ABOUT | {"scenario": scenario, "runs": runs}))
    page = render(tmp_path, tmp_path / "README.md")
    for words in (
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
        "| parse | 2.50 | ujson |",
        "Python 3.11.2 (GCC 12.2.0, profile-guided) with aiohttp 3.14.5; wrk 4.1.0*",
        "; Fastify 5.0.1; FastAPI's Python 3.11.2 (GCC 12.2.0, profile-guided) with aiohttp 3.14.5*",
        "(./compare.svg)",
    ):
        assert words in page
    assert not re.search(r"\{\{|Not measured yet", page)


def test_every_row_has_as_many_cells_as_its_head(tmp_path: Path) -> None:
    for scenario, runs in RESULTS.items():
        (tmp_path / f"{scenario}.json").write_text(json.dumps(ABOUT | {"scenario": scenario, "runs": runs}))
    for block in re.findall(r"(?:^\|.*\n)+", render(tmp_path, tmp_path / "README.md"), re.MULTILINE):
        assert 1 == len({line.count("|") for line in block.splitlines()}), block


def test_what_was_not_measured_says_how_to(tmp_path: Path) -> None:
    assert "*Not measured yet: `python -m bench all --only micro`.*" in render(tmp_path, tmp_path / "README.md")


def test_committed_report_is_made_of_the_committed_results() -> None:
    """Red: `python -m bench report`."""
    assert render() == PAGE.read_text()


@pytest.mark.parametrize("name", re.findall(r"!\[.*?\]\((.+?)\)", render()))
def test_committed_plots_are_there(name: str) -> None:
    assert (PAGE.parent / name).exists()
