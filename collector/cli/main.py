"""The command line: what is asked for, and the exit code.

0 done; 1 failed (port taken, data_dir unusable, an event that would not be stored); 2 wrong usage or configuration.
"""

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from collector.build import BUILD_LINE
from collector.cli.streams import set_up_streams, unwritten
from collector.config_file import ConfigError
from collector.daemon.resources import StartError
from collector.daemon.serve import serve, serve_as_worker
from collector.log.setup import complain

DEFAULT_CONFIG = Path("collector.toml")
DEFAULT_PREFIX = Path("/usr/local")


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
        return _run(_parser().parse_args(argv), argv)
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


def _run(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    match arguments.command:
        case "serve":
            return serve(arguments.config, argv)
        case "worker":
            return serve_as_worker(arguments.control)
    from collector.cli import commands  # and with it pyarrow, only now: a supervisor never needs it

    match arguments.command:
        case "check-config":
            return commands.check_config(arguments.file)
        case "validate":
            return commands.validate(arguments.file, arguments.site, arguments.config)
        case "inspect":
            return commands.inspect(arguments.path, arguments.rows)
        case "recover":
            return commands.recover(arguments.config)
        case "expire":
            return commands.expire(arguments.older_than, arguments.config)
        case "doctor":
            return commands.doctor(arguments.config, arguments.rate)
        case "install":
            return commands.install(arguments.prefix, arguments.root)
        case _:
            return commands.schema(parquet=arguments.parquet)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="collector", description="An analytics event collector.")
    parser.add_argument("--version", action="version", version=BUILD_LINE)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    serve = subparsers.add_parser("serve", help="run until SIGTERM; drains, flushes, exits 0")
    serve.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")

    worker = subparsers.add_parser("worker")  # for a supervisor: in no help
    worker.add_argument("number", type=int)  # for whoever reads a list of processes
    worker.add_argument("control", type=int)

    check = subparsers.add_parser("check-config", help="exit 0, or print every error and exit 2")
    check.add_argument("file", type=Path, metavar="FILE")

    validate = subparsers.add_parser(
        "validate", help="newline-delimited events: what would become of each; nothing is stored"
    )
    validate.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: standard input")
    validate.add_argument("--site", metavar="ID", help="judge by this site's settings; default: a site without any")
    validate.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")

    inspect = subparsers.add_parser(
        "inspect", help="what is in a data_dir, a segment or a part: rows, times, sizes, health"
    )
    inspect.add_argument("path", type=Path, metavar="PATH")
    inspect.add_argument(
        "--rows", type=_rows, default=0, metavar="N", help="print the newest N events too, as JSON lines"
    )

    recover = subparsers.add_parser("recover", help="turn left-over segments into parts without serving")
    recover.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")

    expire = subparsers.add_parser("expire", help="drop the parts of days that are over; also while a collector serves")
    expire.add_argument(
        "--older-than", type=_days, required=True, metavar="DAYS", help="such as 400d: days before the last 400 ones"
    )
    expire.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")

    doctor = subparsers.add_parser("doctor", help="whether this machine would hold a collector, and how much of one")
    doctor.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
    doctor.add_argument(
        "--rate",
        type=_rate,
        default=100,
        metavar="N",
        help="events a second that the disk is to last for; default: 100",
    )

    install = subparsers.add_parser("install", help="put this program and its systemd units in their places")
    install.add_argument("--prefix", type=Path, default=DEFAULT_PREFIX, metavar="DIR", help="default: %(default)s")
    install.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="of the system to install into; default: %(default)s",
    )

    schema = subparsers.add_parser("schema", help="the contract, or the columns that readers get")
    which = schema.add_mutually_exclusive_group(required=True)
    which.add_argument("--json", action="store_true", help="the JSON Schema of an event")
    which.add_argument("--parquet", action="store_true", help="the columns of a part")
    return parser


def _days(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,4})d", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of days, such as 400d")
    return int(match[1])


def _rows(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,30}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of rows, such as 5")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} should be a number of events a second, such as 100")
    return rate
