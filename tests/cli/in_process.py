"""Run the command line in the test's own process."""

from pathlib import Path

import pytest

from collector.cli.main import main

Capture = pytest.CaptureFixture[str]


def run(*arguments: str | Path) -> int:
    """Return the exit code, even if argparse exits."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exc:
        return -1 if exc.code is None else int(exc.code)
