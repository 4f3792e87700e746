"""The command line, `python -m bench SCENARIO`: parse it, run the scenario, print and save the results."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from bench.batch import batch
from bench.compare import compare
from bench.growth import AXES, growth
from bench.half import half
from bench.history import EVENTS, import_history
from bench.micro import micro
from bench.pairs import fast_path, versus
from bench.peak import Shape, peak
from bench.recovery import recovery
from bench.report import PAGE, write
from bench.results import FOLDER, Result, save
from bench.server import NoResult
from bench.subject import Settings, Setup, parse_setting, with_binary
from bench.suite import SUSTAINED_CONNECTIONS, run_all
from bench.sustained import paced, sustained
from bench.tracker import SCRIPT, tracker

QUICK = FOLDER / "quick"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one scenario, all of them, or the report."""
    arguments = parser().parse_args(argv)
    # Treat SIGTERM like Ctrl-C, so that every server started here is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command_line = shlex.join(["python", "-m", "bench", *(argv if argv is not None else sys.argv[1:])])
    try:
        sys.exit(arguments.run(arguments, command_line))
    except NoResult as exc:
        print(f"bench: no result: {exc}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def parser() -> argparse.ArgumentParser:
    """Return the parser of every scenario's options."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    scenarios = parser.add_subparsers(required=True, dest="scenario", metavar="SCENARIO")

    def scenario(name: str, summary: str, run: Callable[[argparse.Namespace], list[Result]]) -> argparse.ArgumentParser:
        command = scenarios.add_parser(name, help=summary)
        _common(command)
        _load(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
        command.set_defaults(run=partial(_one, run))
        return command

    scenario(
        "peak",
        "closed loop: the highest throughput",
        lambda arguments: [peak(setup_of(arguments), shape_of(arguments))],
    )
    scenario(
        "sustained",
        "open loop: the highest rate the collector sustains",
        lambda arguments: sustained(setup_of(arguments), shape_of(arguments)),
    ).set_defaults(seconds=60, connections=SUSTAINED_CONNECTIONS)
    command = scenario(
        "paced",
        "open loop: one fixed rate",
        lambda arguments: [paced(setup_of(arguments), shape_of(arguments), arguments.rate)],
    )
    command.add_argument("--rate", type=float, required=True, help="requests per second")
    command = scenario(
        "compare",
        "the collector and its alternatives, in turn",
        lambda arguments: compare(setup_of(arguments), shape_of(arguments), arguments.rounds),
    )
    command.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    command = scenario(
        "half",
        "open loop at half the peak rate: latency with and without flushes",
        lambda arguments: half(setup_of(arguments), shape_of(arguments), arguments.rounds),
    )
    command.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    command.set_defaults(seconds=20)
    command = scenario(
        "fast-path",
        "closed loop with server.fast_path on and off, in pairs",
        lambda arguments: fast_path(setup_of(arguments), shape_of(arguments), arguments.pairs),
    )
    command.add_argument("--pairs", type=int, default=5, help="default: %(default)s")
    command = scenario(
        "versus",
        "two checkouts or binaries in pairs; a checkout uses the Python of its .venv if it has one, else --python",
        lambda arguments: versus(
            setup_of(arguments), shape_of(arguments), arguments.sides, arguments.pairs, arguments.rate
        ),
    )
    command.add_argument("sides", type=Path, nargs=2, metavar="SIDE", help="folder of a checkout, or a binary")
    command.add_argument("--pairs", type=int, default=6, help="default: %(default)s")
    command.add_argument("--rate", type=float, help="requests per second, in the open loop; default: closed loop")
    command = scenario(
        "growth",
        "cost by number of sites, body size, connections, durability and workers",
        lambda arguments: growth(setup_of(arguments), shape_of(arguments), arguments.axes),
    )
    command.add_argument("--axes", type=_axes, default=AXES, help=f"some of {','.join(AXES)}; default: all")
    command.set_defaults(seconds=10)
    command = scenario(
        "recovery",
        "time to publish what a killed collector left in its journal",
        lambda arguments: [recovery(setup_of(arguments), shape_of(arguments), arguments.events)],
    )
    command.add_argument("--events", type=int, default=200_000, help="default: %(default)s")
    command = scenario(
        "batch",
        "batches of many sizes in turn with single requests, and single requests beside batches",
        lambda arguments: batch(setup_of(arguments), shape_of(arguments), arguments.rounds),
    )
    command.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    command = scenario(
        "import",
        "`collector import` of a file of history, on all cores",
        lambda arguments: [import_history(setup_of(arguments), shape_of(arguments), arguments.events)],
    )
    command.add_argument("--events", type=int, default=EVENTS, help="default: %(default)s")
    scenario("micro", "CPU time of each stage on its own", lambda arguments: micro(arguments.python))
    command = scenario(
        "tracker",
        "the tracker in Chromium: bytes, tasks, and INP with and without it",
        lambda arguments: tracker(arguments.rounds, arguments.pairs, arguments.script),
    )
    command.add_argument(
        "--rounds", type=int, default=3, help="visits of each page for its tasks; default: %(default)s"
    )
    command.add_argument("--pairs", type=int, default=10, help="pairs of visits for INP; default: %(default)s")
    command.add_argument("--script", type=Path, default=SCRIPT, metavar="FILE", help="default: collector/tracker/t.js")

    command = scenarios.add_parser("all", help="run every scenario in full; results go to bench/results/")
    _common(command)
    command.add_argument("--quick", action="store_true", help="a five-minute pass; results go to bench/results/quick/")
    command.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,NAME")
    command.set_defaults(run=_all, seconds=0, connections=128, sites=1, size=0)

    command = scenarios.add_parser("report", help="regenerate bench/README.md and its plots from the results")
    command.add_argument("--quick", action="store_true", help="report bench/results/quick/ instead")
    command.set_defaults(run=_report)
    return parser


def _one(run: Callable[[argparse.Namespace], list[Result]], arguments: argparse.Namespace, command_line: str) -> int:
    runs = run(arguments)
    show(runs)
    if arguments.json:
        save(arguments.json, arguments.scenario, command_line, runs, setup_of(arguments), arguments.folder)
    return 0


def _all(arguments: argparse.Namespace, command_line: str) -> int:
    results = QUICK if arguments.quick else FOLDER
    setup, shape = setup_of(arguments), shape_of(arguments)
    return 1 if run_all(setup, shape, results, command_line, quick=arguments.quick, only=arguments.only) else 0


def _report(arguments: argparse.Namespace, command_line: str) -> int:
    results, page = (QUICK, QUICK / "README.md") if arguments.quick else (FOLDER, PAGE)
    write(results, page)
    if arguments.quick:
        Console().print(Markdown(page.read_text()))
    print(page)
    return 0


def _axes(text: str) -> tuple[str, ...]:
    axes = tuple(text.split(","))
    if not set(axes) <= set(AXES):
        raise argparse.ArgumentTypeError(f"expected names from {', '.join(AXES)}")
    return axes


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a collector setting; repeatable"
    )
    parser.add_argument(
        "--python", default=sys.executable, metavar="PATH", help="the collector's Python; default: this one"
    )
    parser.add_argument(
        "--binary",
        type=Path,
        metavar="PATH",
        help="run this program, such as dist/collector, instead of `python -m collector`; `micro` ignores it",
    )
    parser.add_argument("--folder", type=Path, help="folder for run data; default: the system's temporary folder")
    parser.add_argument(
        "--pin",
        choices=("auto", "no"),
        default="auto",
        help="auto: with one worker, pin the collector to the first core and the load to the second",
    )


def _load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=5, help="duration of the load; default: %(default)s")
    parser.add_argument("--connections", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--sites", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=0, metavar="BYTES", help="of a body; default: 700 to 1,000")


def setup_of(arguments: argparse.Namespace) -> Setup:
    settings: Settings = {}
    try:
        for text in arguments.set:
            section, key, value = parse_setting(text)
            settings.setdefault(section, {})[key] = value
    except ValueError as exc:
        raise NoResult(f"--set {exc}") from None
    setup = Setup(arguments.sites, settings, arguments.python, cores=_cores(arguments, settings)[0])
    return with_binary(setup, arguments.binary) if arguments.binary else setup


def shape_of(arguments: argparse.Namespace) -> Shape:
    return Shape(
        seconds=arguments.seconds,
        connections=arguments.connections,
        size_bytes=arguments.size,
        load_cores=_cores(arguments, setup_of(arguments).settings)[1],
        folder=arguments.folder,
    )


def _cores(arguments: argparse.Namespace, settings: Settings) -> tuple[str | None, str | None]:
    """Return the cores of the collector and of the load; None means all cores."""
    cores = sorted(os.sched_getaffinity(0))
    if arguments.pin == "no" or settings.get("server", {}).get("workers", 1) != 1 or len(cores) < 2:
        return None, None
    return str(cores[0]), str(cores[1])


def show(runs: Sequence[Result]) -> None:
    """Print every run, one measured value per line."""
    console = Console(highlight=False)
    for run in runs:
        for name, value in run.items():
            if value is not None and not (isinstance(value, list) and len(value) > 8):
                console.print(f"{name:>26}  {_figure(value)}")
        console.print()


def _figure(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_figure, value))
    return f"{value:,.{2 if abs(value) < 10 else 1}f}" if isinstance(value, float) else str(value)
