"""`collector doctor`: the command, from the configuration file to the exit code."""

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
from collector.wording import count

WIDTH_OF_FILES = 120
_COLOURS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "bold red"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Check that this machine can run the collector: disk, limits, clock, ports and proxies. Measures for a few "
        "seconds how long the disk takes to sync. Run it as the user that the collector will run as; it does not "
        "disturb a running collector. Exit 1 if something would keep the collector from serving."
    )
    add_config_argument(parser)
    parser.add_argument(
        "--rate",
        type=_rate,
        default=100,
        metavar="N",
        help="events a second that you expect, to estimate how long the disk lasts; default: %(default)s",
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
    """Print the report; return 1 if something would keep a collector from serving. Raises ConfigError, StartError."""
    config = load(arguments.config)
    if not LINUX:
        raise StartError("doctor: needs Linux, because it reads Linux limits and devices")
    check_layout(arguments.config, config.storage)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    waiting = Console(stderr=True)
    with waiting.status("checking the machine and measuring its disk for a few seconds"):  # shown only on a terminal
        machine = look_at(config)
        disk = measure_disk(machine.folder)
    found = Examined(config=config, machine=machine, disk=disk, rate=arguments.rate)
    findings = examine(found)
    console.print(_table(findings))
    for line in verdict(found):
        console.print(escape(line), highlight=False)
    failures = sum(finding.grade is Grade.FAIL for finding in findings)
    warnings = sum(finding.grade is Grade.WARN for finding in findings)
    failed = count(failures, "problem") if failures else "nothing"
    console.print(f"\n{failed} would keep the collector from serving; {count(warnings, 'warning')}", highlight=False)
    return 1 if failures else 0


def _table(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE, show_header=False)
    for finding in findings:
        colour = _COLOURS[finding.grade]
        table.add_row(f"[{colour}]{finding.grade.value}[/]", finding.name, escape(finding.message))
    return table
