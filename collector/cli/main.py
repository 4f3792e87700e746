"""The command line: one module per command, and the exit code.

Each command's module has `add_arguments(parser)` and `run(arguments)`, which returns the exit code: 0 for success; 1
for failure (port taken, data_dir unusable, an event that would not be stored); 2 for wrong usage or bad configuration.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from collector.build import BUILD_LINE
from collector.cli.streams import set_up_streams, unwritten
from collector.config_file import ConfigError
from collector.daemon.resources import StartError
from collector.log.setup import complain

# Each command and its line in the help. `module_of` finds its module.
COMMANDS = {
    "serve": "run the collector until SIGTERM",
    "worker": None,  # started by the supervisor, not by people, so the help leaves it out
    "check-config": "check a configuration file and print every error",
    "validate": "report which events of a file would be stored, and why not",
    "import": "send the events of a file to a collector",
    "key": "make a key for a sender that is no browser",
    "inspect": "show the rows, times, sizes and health of a data_dir, segment or part",
    "recover": "publish the events left in the journal, without serving",
    "expire": "delete the parts of old days",
    "doctor": "check that this machine can run the collector",
    "install": "install this binary and its systemd units",
    "tracker": "print the HTML that loads the tracker on a site's pages, or its TypeScript types",
    "schema": "print the JSON Schema of an event, or the columns of a part",
}

# The module of a command has its name, with `_` for `-`. Python keeps the name `import` for itself.
_MODULES = {"import": "importing"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Raises SystemExit like argparse, after help and on wrong usage."""
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
    """Whether any output could not be written. Prints the reason to stderr."""
    failure = unwritten()
    if failure is None:
        return False
    if not isinstance(failure, BrokenPipeError):  # the reader has left on purpose, as `head` does
        complain(f"cannot write to standard output: {failure.strerror}")
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


def module_of(command: str) -> ModuleType:
    """Import the module of a command."""
    return import_module(f"collector.cli.{_MODULES.get(command, command.replace('-', '_'))}")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for these arguments. It knows every command by name, but only the called one's arguments."""
    parser = argparse.ArgumentParser(
        prog="collector",
        description="Collect analytics events over HTTP and store them as Parquet files.",
        epilog="`collector COMMAND --help` explains a command. Exit codes: 0 success, 1 failure, 2 wrong usage or bad "
        "configuration.",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=BUILD_LINE,
        help="print version, commit, contract hash and form of the code, and exit",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for command, summary in COMMANDS.items():
        subparser = subparsers.add_parser(command, help=summary) if summary else subparsers.add_parser(command)
        if argv[:1] == [command]:
            # Import this command's module only: a supervisor without pyarrow and rich, which it does not use, takes a
            # third of the memory that it would take with them.
            module = module_of(command)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser
