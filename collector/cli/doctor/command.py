"""The command, from the configuration file to the exit code."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from collector.cli.doctor.checks import Examined, Finding, Grade, examine
from collector.cli.doctor.machine import look_at
from collector.cli.doctor.speed import measure_cpu, measure_disk
from collector.cli.doctor.verdict import verdict
from collector.config_file import load
from collector.daemon.layout import check_layout
from collector.daemon.resources import StartError
from collector.portable import LINUX

WIDTH_OF_FILES = 120
_COLOURS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "bold red"}


def doctor(config_file: Path, rate: float) -> int:
    """Look, measure, and say; 1 if something would keep a collector from serving. Raises ConfigError, StartError."""
    config = load(config_file)
    if not LINUX:
        raise StartError("doctor: needs Linux, whose limits and devices it looks at")
    check_layout(config_file, config.storage)
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    waiting = Console(stderr=True)
    with waiting.status("looking at the machine, and measuring it for some seconds"):  # nothing where no terminal is
        machine = look_at(config)
        disk = measure_disk(machine.folder)
        cpu = measure_cpu(config)
    found = Examined(config=config, machine=machine, disk=disk, cpu=cpu, rate=rate)
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
