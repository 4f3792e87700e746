"""Comparisons of two ways to run the collector, in turn."""

from pathlib import Path

import pytest

from bench.cli import main, parser, setup_of
from bench.pairs import FIGURES, fast_path, in_pairs, versus
from bench.peak import Shape
from bench.results import Result, about_collector
from bench.server import NoResult
from bench.subject import Setup, command, variables, with_binary

SIDES = {"old": Setup(sites=1), "new": Setup(sites=2)}


def figures(cpu_us: float) -> Result:
    return dict.fromkeys(FIGURES, cpu_us)


def test_pairs_alternate_which_side_runs_first() -> None:
    runs = in_pairs(SIDES, lambda setup, shape: shape.labels | figures(1.0), Shape(), pairs=3)
    assert ["old", "new", "new", "old", "old", "new"] == [run["name"] for run in runs if run["kind"] == "run"]


def test_ratio_is_the_median_of_the_pairs_not_of_the_runs() -> None:
    """The machine slows down between the pairs."""
    taken = {1: iter((10.0, 30.0, 50.0)), 2: iter((20.0, 40.0, 500.0))}
    runs = in_pairs(SIDES, lambda setup, shape: shape.labels | figures(next(taken[setup.sites])), Shape(), pairs=3)
    cpu, *_ = (run for run in runs if run["kind"] == "ratio")
    assert ("old / new", "cpu_us_per_event") == (cpu["name"], cpu["figure"])
    assert (0.5, 0.1, 0.75) == (cpu["ratio"], cpu["lowest"], cpu["highest"])
    assert [30.0, 40.0] == cpu["medians"]


def test_fast_path_is_measured_on_and_off(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def peak(setup: Setup, shape: Shape) -> Result:
        seen.append((shape.labels["name"], setup.settings["server"]["fast_path"]))
        return shape.labels | figures(1.0)

    monkeypatch.setattr("bench.pairs.peak", peak)
    fast_path(Setup(), Shape(), pairs=1)
    assert [("fast_path = true", True), ("fast_path = false", False)] == seen


def checkout(root: Path, message: str) -> Path:
    """Make a checkout whose collector only exits with a message."""
    (root / "collector").mkdir(parents=True)
    (root / "collector" / "__main__.py").write_text(f"raise SystemExit({message!r})")
    return root


def test_versus_runs_the_collector_of_each_checkout(tmp_path: Path) -> None:
    roots = [checkout(tmp_path / name, f"this is {name}") for name in ("old", "new")]
    for pair in (roots, roots[::-1]):
        with pytest.raises(NoResult, match=f"this is {pair[0].name}"):
            versus(Setup(), Shape(requests=10), pair, pairs=1, rate=10)


def test_versus_uses_the_python_of_a_checkouts_venv(tmp_path: Path) -> None:
    python = checkout(tmp_path, "not run") / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho the python of its venv\n")
    python.chmod(0o755)
    with pytest.raises(NoResult, match="the python of its venv"):
        versus(Setup(), Shape(requests=10), [tmp_path, tmp_path], pairs=1, rate=10)


def program(path: Path, message: str) -> Path:
    """Make a program that only prints a message and fails."""
    path.write_text(f"#!/bin/sh\necho {message}\nexit 1\n")
    path.chmod(0o755)
    return path


def test_versus_runs_a_binary_beside_a_checkout(tmp_path: Path) -> None:
    sides = [checkout(tmp_path / "old", "this is old"), program(tmp_path / "new", "this is new")]
    for pair in (sides, sides[::-1]):
        with pytest.raises(NoResult, match=f"this is {pair[0].name}"):
            versus(Setup(), Shape(requests=10), pair, pairs=1, rate=10)


def test_versus_says_what_each_side_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.pairs.peak", lambda setup, shape: shape.labels | figures(1.0))
    sides = [checkout(tmp_path / "old", "old 1.0"), program(tmp_path / "new", "new 2.0")]
    found = versus(Setup(), Shape(), sides, pairs=1, rate=None)
    assert [
        {"kind": "side", "name": str(sides[0]), "runs": "python -m collector", "version": "old 1.0", "commit": None},
        {"kind": "side", "name": str(sides[1]), "runs": "the binary", "version": "new 2.0"},
    ] == found[:2]


def test_binary_gets_the_arguments_and_no_python_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    setup = with_binary(Setup(), program(tmp_path / "collector", "2.0"))
    assert [str(tmp_path / "collector"), "serve"] == command(setup, "serve")
    assert "PYTHONPATH" not in variables(setup)
    assert {"runs": "the binary", "version": "2.0"} == about_collector(setup)


def test_any_scenario_takes_a_binary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = program(tmp_path / "collector", "this is the binary")
    for scenario in (
        "peak",
        "sustained",
        "paced --rate 1",
        "compare",
        "half",
        "fast-path",
        "growth",
        "recovery",
        "all",
    ):
        arguments = parser().parse_args([*scenario.split(), "--binary", str(binary)])
        assert binary == setup_of(arguments).binary
    with pytest.raises(SystemExit) as ended:
        main(["peak", "--binary", str(binary)])
    assert 1 == ended.value.code
    assert "this is the binary" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_what_is_neither_a_program_nor_a_checkout_is_no_result(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoResult, match=f"{name} is neither a program nor a checkout"):
        versus(Setup(), Shape(), 2 * [tmp_path / name], pairs=1, rate=None)
    with pytest.raises(NoResult, match=f"{name} is not a program"):
        with_binary(Setup(), tmp_path / name)
