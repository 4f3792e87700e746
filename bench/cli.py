"""`python -m bench <scenario>`: what is to be measured, and how it is told."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.compare import compare
from bench.peak import Shape, peak
from bench.results import Result, save
from bench.server import NoResult
from bench.subject import Settings, Setup, parse_setting
from bench.sustained import paced, sustained


def main(argv: Sequence[str] | None = None) -> None:
    """Run one scenario."""
    arguments = _parser().parse_args(argv)
    try:
        runs = arguments.run(arguments)
    except NoResult as exc:
        print(f"bench: no result: {exc}", file=sys.stderr)
        sys.exit(1)
    show(runs)
    if arguments.json:
        words = shlex.join(["python", "-m", "bench", *(argv if argv is not None else sys.argv[1:])])
        save(arguments.json, arguments.scenario, words, runs, arguments.python, arguments.folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    scenarios = parser.add_subparsers(required=True, dest="scenario", metavar="SCENARIO")
    _common(command := scenarios.add_parser("peak", help="closed loop: as much as the connections can send"))
    command.set_defaults(run=lambda arguments: [peak(setup_of(arguments), shape_of(arguments))])
    _common(command := scenarios.add_parser("sustained", help="open loop: the highest rate that is held"))
    command.set_defaults(run=lambda arguments: sustained(setup_of(arguments), shape_of(arguments)), seconds=60)
    _common(command := scenarios.add_parser("paced", help="open loop: one rate"))
    command.add_argument("--rate", type=float, required=True, help="requests a second")
    command.set_defaults(run=lambda arguments: [paced(setup_of(arguments), shape_of(arguments), arguments.rate)])
    _common(command := scenarios.add_parser("compare", help="beside what people would use instead"))
    command.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    command.set_defaults(run=lambda arguments: compare(setup_of(arguments), shape_of(arguments), arguments.rounds))
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=5, help="of load; default: %(default)s")
    parser.add_argument("--connections", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--sites", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=0, metavar="BYTES", help="of a body; default: as they come")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting")
    parser.add_argument("--python", default=sys.executable, metavar="PATH", help="the collector's; default: this one")
    parser.add_argument("--folder", type=Path, help="where data goes; default: the system's temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result is written to")
    parser.add_argument(
        "--pin",
        choices=("auto", "no"),
        default="auto",
        help="auto: with one worker, keep the collector on core 0 and the load on core 1",
    )


def setup_of(arguments: argparse.Namespace) -> Setup:
    settings: Settings = {}
    try:
        for text in arguments.set:
            section, key, value = parse_setting(text)
            settings.setdefault(section, {})[key] = value
    except ValueError as exc:
        raise NoResult(f"--set {exc}") from None
    return Setup(arguments.sites, settings, arguments.python, cores="0" if _pins(arguments, settings) else None)


def shape_of(arguments: argparse.Namespace) -> Shape:
    return Shape(
        seconds=arguments.seconds,
        connections=arguments.connections,
        size_bytes=arguments.size,
        load_cores="1" if setup_of(arguments).cores else None,
        folder=arguments.folder,
    )


def _pins(arguments: argparse.Namespace, settings: Settings) -> bool:
    workers = settings.get("server", {}).get("workers", 1)
    return arguments.pin == "auto" and workers == 1 and (os.cpu_count() or 1) >= 2


def show(runs: Sequence[Result]) -> None:
    """Every run, one line for each thing that was measured."""
    console = Console(highlight=False)
    for run in runs:
        for name, value in run.items():
            if value is not None and not (isinstance(value, list) and len(value) > 8):
                console.print(f"{name:>26}  {value:,.1f}" if isinstance(value, float) else f"{name:>26}  {value}")
        console.print()
