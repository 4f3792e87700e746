"""The full suite: every scenario in turn, each with its own results file."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench.batch import FORMS, batch
from bench.browser import missing
from bench.compare import compare
from bench.growth import AXES, growth
from bench.half import half
from bench.history import import_history
from bench.micro import micro
from bench.pairs import fast_path
from bench.peak import Shape, peak
from bench.recovery import recovery
from bench.results import Result, save
from bench.server import NoResult
from bench.subject import Setup
from bench.sustained import sustained
from bench.tracker import tracker

# No request may wait for a free connection: 40,000 a second at 5 ms each are 200 in flight.
SUSTAINED_CONNECTIONS = 256


def scenarios(setup: Setup, shape: Shape, *, quick: bool) -> dict[str, Callable[[], list[Result]]]:
    """Return every scenario with its duration."""
    open_loop = replace(shape, connections=SUSTAINED_CONNECTIONS)
    if quick:
        return {
            "peak": lambda: [peak(setup, replace(shape, seconds=5))],
            "compare": lambda: compare(setup, replace(shape, seconds=4), rounds=1),
            "sustained": lambda: sustained(setup, replace(open_loop, seconds=15), trial_s=4),
            "fast-path": lambda: fast_path(setup, replace(shape, seconds=4), pairs=1),
            "growth": lambda: growth(setup, replace(shape, seconds=5), ["sites"], [1, 100], longest_s=5),
            "batch": lambda: batch(setup, replace(shape, seconds=3), rounds=1, forms=FORMS[:2], beside_s=5),
            "import": lambda: [import_history(setup, shape, events=60_000)],
            "micro": lambda: micro(setup.python),
            # One visit of a page that costs much, in half a minute. Not every machine has a browser.
            **({} if missing() else {"tracker": lambda: tracker(rounds=1, pairs=0, pages=["large"], slowdowns=[4])}),
        }
    return {
        "peak": lambda: [peak(setup, replace(shape, seconds=15)) for _ in range(3)],
        "compare": lambda: compare(setup, replace(shape, seconds=10), rounds=5),
        "sustained": lambda: sustained(setup, replace(open_loop, seconds=60)),
        "half": lambda: half(setup, replace(shape, seconds=20), rounds=5),
        "fast-path": lambda: fast_path(setup, replace(shape, seconds=10), pairs=7),
        "growth": lambda: growth(setup, replace(shape, seconds=10), AXES),
        "recovery": lambda: [recovery(setup, shape, events) for events in (100_000, 400_000)],
        "batch": lambda: batch(setup, replace(shape, seconds=4), rounds=3),
        "import": lambda: [import_history(setup, shape)],
        "micro": lambda: micro(setup.python),
        "tracker": lambda: tracker(rounds=3, pairs=10),
    }


def run_all(
    setup: Setup, shape: Shape, results: Path, command: str, *, quick: bool, only: Collection[str] = ()
) -> list[str]:
    """Run the scenarios and save their results. Returns the names of those without a result."""
    console = Console(highlight=False)
    failed = []
    if quick and (lacking := missing()):
        console.print(f"tracker is left out: {lacking}")
    for name, run in scenarios(setup, shape, quick=quick).items():
        if only and name not in only:
            continue
        console.rule(name)
        path = results / f"{name}.json"
        path.unlink(missing_ok=True)  # a failed run must not leave an old result in the report
        try:
            save(path, name, command, run(), setup, shape.folder)
        except NoResult as exc:
            console.print(f"{name}: no result: {exc}")
            failed.append(name)
    return failed
