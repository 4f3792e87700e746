"""The command line: one module a command, and the exit code.

Each command's module has `add_arguments(parser)` and `run(arguments)`, which returns the exit code: 0 done; 1 failed
(port taken, data_dir unusable, an event that would not be stored); 2 wrong usage or configuration.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from collector.build import BUILD_LINE
from collector.cli.streams import set_up_streams, unwritten
from collector.config_file import ConfigError
from collector.daemon.resources import StartError
from collector.log.setup import complain

# Each command, and its line in the help. Its module has its name, with `_` for `-`.
COMMANDS = {
    "serve": "run until SIGTERM; drains, flushes, exits 0",
    "worker": None,  # started by a supervisor, not by people: in no help
    "check-config": "exit 0, or print every error and exit 2",
    "validate": "newline-delimited events: what would become of each; nothing is stored",
    "inspect": "what is in a data_dir, a segment or a part: rows, times, sizes, health",
    "recover": "turn left-over segments into parts without serving",
    "expire": "drop the parts of days that are over; also while a collector serves",
    "doctor": "check that this machine can run the collector",
    "install": "put this program and its systemd units in their places",
    "schema": "the contract, or the columns that readers get",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Raises SystemExit where argparse does: after its help, and where it was used wrongly."""
    set_up_streams()
    try:
        code = _code_of(sys.argv[1:] if argv is None else argv)
    except SystemExit as exc:
        if _is_unwritten() and not exc.code:
            return 1
        raise
    is_unwritten = _is_unwritten()
    return code or int(is_unwritten)


def _is_unwritten() -> bool:
    """Whether some of the output could not be written; stderr says why."""
    failure = unwritten()
    if failure is None:
        return False
    if not isinstance(failure, BrokenPipeError):  # the reader of our output has gone: there is nobody to tell
        complain(f"standard output cannot be written: {failure.strerror}")
    return True


def _code_of(argv: Sequence[str]) -> int:
    try:
        arguments = _parser(argv).parse_args(argv)
        code: int = arguments.run(arguments)
    except ConfigError as exc:
        for line in exc.errors:
            complain(line)
        return 2
    except StartError as exc:
        complain(str(exc))
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these arguments: it knows every command by name, and the arguments of the one that is called."""
    parser = argparse.ArgumentParser(prog="collector", description="An analytics event collector.")
    parser.add_argument("--version", action="version", version=BUILD_LINE)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command, words in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=words) if words else subparsers.add_parser(command)
        if argv[:1] == [command]:
            # Only this command's module is imported: a supervisor needs neither pyarrow nor rich, and without them
            # takes a third of the memory.
            module = import_module(f"collector.cli.{command.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser
