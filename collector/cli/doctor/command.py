"""The command, from the configuration file to the exit code."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from collector.cli.config_argument import add_config_argument
from collector.cli.doctor.checks import Examined, Finding, Grade, examine
from collector.cli.doctor.disk import measure_disk
from collector.cli.doctor.machine import look_at
from collector.cli.doctor.verdict import verdict
from collector.config_file import load
from collector.daemon.layout import check_layout
from collector.daemon.resources import StartError
from collector.portable import LINUX

WIDTH_OF_FILES = 120
_COLOURS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "bold red"}


def add_arguments(parser: ArgumentParser) -> None:
    add_config_argument(parser)
    parser.add_argument(
        "--rate",
        type=_rate,
        default=100,
        metavar="N",
        help="events a second that the disk is to last for; default: 100",
    )


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1e9:
        raise ArgumentTypeError(f"{text!r} should be a number of events a second, such as 100")
    return rate


def run(arguments: Namespace) -> int:
    """Look, measure, and say; 1 if something would keep a collector from serving. Raises ConfigError, StartError."""
    config = load(arguments.config)
    if not LINUX:
        raise StartError("doctor: needs Linux, whose limits and devices it looks at")
    check_layout(arguments.config, config.storage)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    waiting = Console(stderr=True)
    with waiting.status("looking at the machine, and measuring its disk for some seconds"):  # only on a terminal
        machine = look_at(config)
        disk = measure_disk(machine.folder)
    found = Examined(config=config, machine=machine, disk=disk, rate=arguments.rate)
    findings = examine(found)
    console.print(_table(findings))
    for line in verdict(found):
        console.print(escape(line), highlight=False)
    failures = sum(finding.grade is Grade.FAIL for finding in findings)
    warnings = sum(finding.grade is Grade.WARN for finding in findings)
    end = f"{failures} would keep it from serving" if failures else "nothing keeps it from serving"
    console.print(f"\n{end}; {warnings} warning{'s' * (warnings != 1)}", highlight=False)
    return 1 if failures else 0


def _table(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False)
    for finding in findings:
        colour = _COLOURS[finding.grade]
        table.add_row(f"[{colour}]{finding.grade.value}[/]", finding.name, escape(finding.words))
    return table
