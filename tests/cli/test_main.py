"""Behaviour shared by all commands: the version, the help, and exit code 2 for wrong usage."""

import subprocess
import sys

import pytest

from collector import VERSION
from collector.build import CODE
from collector.cli.main import COMMANDS
from collector.events import CONTRACT_HASH
from tests.cli.in_process import Capture, run


def test_version_names_code_and_contract(capsys: Capture) -> None:
    assert run("--version") == 0
    assert (f"collector {VERSION}, contract {CONTRACT_HASH}, {CODE}\n", "") == capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--nonsense"],
        ["nonsense"],
        ["serve", "extra"],
        ["serve", "--config"],
        ["check-config"],
        ["check-config", "a", "b"],
        ["inspect"],
        ["inspect", ".", "--rows", "many"],
        ["schema"],
        ["schema", "--json", "--parquet"],
        ["validate", "--site"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_and_prints_the_usage(arguments: list[str], capsys: Capture) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    usage, *_, error = err.splitlines()
    assert ("", True, True) == (out, usage.startswith("usage: collector"), ": error: " in error)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_says_what_it_does(command: str, capsys: Capture) -> None:
    assert run(command, "--help") == 0
    usage, description, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith(f"usage: collector {command}")
    assert description[0].isupper(), "the list of arguments, not a description"


def test_supervisor_imports_neither_pyarrow_nor_rich() -> None:
    """Without them it takes a third of the memory."""
    code = (
        "import sys; from collector.cli.main import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: import collector.daemon.workers.supervisor\n"
        "sys.exit(' '.join({'pyarrow', 'rich'} & set(sys.modules)) or 0)"
    )
    assert "" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
