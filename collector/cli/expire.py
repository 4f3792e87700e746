"""`collector expire`: delete the parts of old days."""

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from datetime import UTC, datetime

from collector.cli.config_argument import add_config_argument
from collector.cli.data_dir import existing
from collector.cli.progress import with_progress
from collector.config_file import load
from collector.daemon.resources import StartError
from collector.lake.expire import expire
from collector.wording import count


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Delete the parts of old days in events/ and rejected/. It can run while a collector serves, also on a full "
        "disk."
    )
    parser.add_argument(
        "--older-than",
        type=_days,
        required=True,
        metavar="DAYS",
        help="such as 400 or 400d: keep today (UTC) and the 400 days before it",
    )
    add_config_argument(parser)


def run(arguments: Namespace) -> int:
    """Delete the parts of every day but today (UTC) and the given number of days before it."""
    data_dir = existing(load(arguments.config).storage.data_dir)
    today = datetime.now(UTC).date()
    try:
        deleted = expire(data_dir, today, arguments.older_than, lambda folders: with_progress(folders, "deleting"))
    except OSError as exc:
        raise StartError(f"{exc.filename}: {exc.strerror}") from None
    print(f"deleted {count(deleted, 'part')}")
    return 0


def _days(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,4})d?", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"{text!r} should be a number of days, such as 400 or 400d")
    return int(match[1])
