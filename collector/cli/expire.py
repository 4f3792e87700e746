"""`collector expire`: drop the parts of days that are over."""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from datetime import UTC, datetime

from collector.cli.config_argument import add_config_argument
from collector.cli.data_dir import existing
from collector.cli.progress import with_progress
from collector.config_file import load
from collector.daemon.resources import StartError
from collector.lake.expire import expire


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--older-than", type=_days, required=True, metavar="DAYS", help="such as 400d: days before the last 400 ones"
    )
    add_config_argument(parser)


def run(arguments: Namespace) -> int:
    """Drop the parts of all days but today and as many days before it."""
    data_dir = existing(load(arguments.config).storage.data_dir)
    today = datetime.now(UTC).date()
    try:
        dropped = expire(data_dir, today, arguments.older_than, lambda folders: with_progress(folders, "dropping"))
    except OSError as exc:
        raise StartError(f"{exc.filename}: {exc.strerror}") from None
    print(f"dropped {dropped} parts")
    return 0


def _days(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,4})d", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{text!r} should be a number of days, such as 400d")
    return int(match[1])
