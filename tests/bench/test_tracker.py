"""The scenario `tracker`: what it makes of its visits, what it needs, and the pages it measures."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import suite
from bench.pages import FIELDS, ROWS, SCRIPT_PATH, document_of
from bench.peak import Shape
from bench.server import NoResult
from bench.subject import Setup
from bench.tracker import inp_of, phases, sizes, summary, tracker
from bench.tracker_tables import PHASES, tasks


def visit(number: int, cpu_ms: float, *, phase: str = "click", slowdown: int = 4) -> dict[str, Any]:
    tasks = {phase: (cpu_ms + 1, cpu_ms)}
    return {"kind": "visit", "page": "small", "slowdown": slowdown, "round": number, "tasks": tasks}


def interactions(number: int, tracked: bool, inp_ms: float) -> dict[str, Any]:
    about = {"kind": "interactions", "page": "small", "round": number, "tracked": tracked}
    return about | {"inp_ms": inp_ms, "median_ms": inp_ms / 2}


def test_summary_has_the_median_of_the_longest_tasks() -> None:
    [found] = summary([visit(0, 9.0), visit(1, 70.0), visit(2, 10.0)])
    assert (10.0, 9.0, 70.0, 11.0, 3) == (
        *(found[name] for name in ("cpu_ms", "lowest_ms", "highest_ms", "wall_ms", "visits")),
    )


def test_summary_keeps_slowdowns_apart() -> None:
    assert [(1, 2.0), (4, 9.0)] == [
        (run["slowdown"], run["cpu_ms"]) for run in summary([visit(0, 2.0, slowdown=1), visit(0, 9.0)])
    ]


def test_difference_is_taken_pair_by_pair() -> None:
    """The machine was slower in the second pair: the difference of the medians, 8 + 40, says nothing."""
    pairs = [(24, 16), (164, 156), (64, 64)]
    runs = [
        interactions(number, tracked, inp_ms)
        for number, pair in enumerate(pairs)
        for tracked, inp_ms in zip((True, False), pair, strict=True)
    ]
    [found] = summary(runs)
    assert (8, 0, 8, 4, 3) == (
        *(found[name] for name in ("more_ms", "lowest_ms", "highest_ms", "median_more_ms", "pairs")),
    )


def test_inp_is_the_longest_interaction() -> None:
    assert (72, 24) == inp_of([24, 16, 72], 3)


def test_interactions_too_short_to_be_reported_count_as_one_step() -> None:
    assert (24, 8) == inp_of([24], 3)


def test_no_interactions_are_no_result() -> None:
    with pytest.raises(NoResult, match="no interactions"):
        inp_of([], 0)


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "t.js").write_bytes(b"0123456789")
    (tmp_path / "t.js.br").write_bytes(b"0123")
    found = sizes(tmp_path / "t.js")
    assert {"bytes": 10, "brotli_bytes": 4, "sha256": "84d89877f0d4"} == found


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Take programs away whose name has this in it."""

    def take(name: str) -> None:
        monkeypatch.setattr(shutil, "which", lambda program: None if name in program else f"/bin/{program}")

    return take


@pytest.mark.parametrize(("name", "words"), [("chrom", "Chromium is missing"), ("driver", "chromedriver is missing")])
def test_missing_program_is_named_with_the_package_that_has_it(
    without: Callable[[str], None], name: str, words: str
) -> None:
    without(name)
    with pytest.raises(NoResult, match=rf"{words}: apt-get install .*chromium-driver"):
        tracker(rounds=1, pairs=1)


@pytest.mark.parametrize(
    ("quick", "name", "has"), [(True, "none", True), (True, "chrom", False), (False, "chrom", True)]
)
def test_quick_pass_leaves_the_tracker_out_without_a_browser(
    without: Callable[[str], None], quick: bool, name: str, has: bool
) -> None:
    """The full pass does not: it says that the result is missing."""
    without(name)
    assert has == ("tracker" in suite.scenarios(Setup(), Shape(), quick=quick))


def test_pages_differ_by_the_script_alone() -> None:
    for page in ("small", "large", "form"):
        tag = f'<script defer src="{SCRIPT_PATH}" data-automation></script>'.encode()
        tracked = document_of(page, tracked=True)
        assert (1, document_of(page, tracked=False)) == (tracked.count(tag), tracked.replace(tag, b""))


def test_large_pages_are_as_large_as_they_say() -> None:
    large, form = document_of("large", tracked=True), document_of("form", tracked=True)
    assert (ROWS, FIELDS) == (large.count(b"<tr>"), form.count(b'<input name="field'))


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_a_row(phase: str) -> None:
    _, rows = tasks(summary([visit(0, 9.0, phase=phase)]))
    assert [[PHASES[phase], "4", "**9.0** (10.0)"]] == rows


def test_every_phase_of_a_visit_has_a_name() -> None:
    measured = {phase for page in ("small", "large", "form") for phase, _ in phases(page, 4)}
    assert measured | {"evaluation", "start"} == set(PHASES)
