"""From the arguments to the exit code: reads, sends, reports, and says where to go on after a stop."""

import asyncio
import random
import re
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path

from collector.cli.importing.batches import Limits
from collector.cli.importing.client import REQUEST_S, connected, is_loopback
from collector.cli.importing.key_file import read_key
from collector.cli.importing.progress import shown
from collector.cli.importing.run import Reading, Tally, send_all
from collector.cli.importing.sender import GaveUp, Preparer, Sender
from collector.cli.importing.source import Source, Unreadable
from collector.cli.url_argument import base_of
from collector.clock import SystemClock
from collector.config import SITE_ID
from collector.config_file import ConfigError
from collector.daemon.stop_signals import STOP_SIGNALS
from collector.log.setup import complain

DEFAULT_URL = "http://127.0.0.1:8080"
LIMITS = Limits()


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Send the events of a file, one JSON object per line, to a collector. Print the number of each line that was "
        "not stored, and why. Exit 1 if any was not stored. After a stop, it says at which line to go on. A batch that "
        "is sent again within a day is stored once, if FILE is the same and --from-line is the same, or the one that "
        "the stopped run named."
    )
    parser.add_argument("file", metavar="FILE", help="newline-delimited JSON, also packed by gzip; -: standard input")
    parser.add_argument("--site", metavar="ID", required=True, help="the site that the events belong to")
    parser.add_argument("--url", default=DEFAULT_URL, help="address of the collector; default: %(default)s")
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="file with a key of the site, from `collector key`: then received_at, client_ip and user_agent of the "
        "events count, and there is no rate limit",
    )
    parser.add_argument(
        "--from-line",
        type=_positive_int,
        default=1,
        metavar="N",
        help="skip the lines before this one; default: %(default)s",
    )
    parser.add_argument(
        "--patience",
        type=_positive,
        default=600.0,
        metavar="SECONDS",
        help="give up after this many seconds without progress; default: %(default)g",
    )


def run(arguments: Namespace) -> int:
    """Send the file. Returns 1 if any event was not stored, 128 + signal if stopped. Raises ConfigError, StartError."""
    site_id: str = arguments.site
    if not SITE_ID.fullmatch(site_id):
        raise ConfigError(["--site: a site id is 1 to 64 characters out of A-Z a-z 0-9 _ -"])
    base = base_of(arguments.url)
    patience_s: float = arguments.patience
    key = None if arguments.key_file is None else read_key(arguments.key_file)
    preparer = Preparer(site_id, use_gzip=not is_loopback(base))
    tally = Tally(arguments.from_line)
    with Source(arguments.file) as source, shown(source.size_bytes) as advance:
        reading = Reading(source, arguments.from_line, preparer, LIMITS)

        async def sending() -> None:
            if key is None:
                complain(
                    "without --key-file, received_at, client_ip and user_agent of the events are ignored, and the rate "
                    "limit applies"
                )
            async with connected(base, site_id, key, min(REQUEST_S, patience_s)) as post:
                sender = Sender(
                    preparer.request, post, SystemClock(), patience_s=patience_s, jitter=random.random, tell=complain
                )
                await send_all(reading, sender, tally, advance)

        return _run(sending, tally)


def _run(sending: Callable[[], Awaitable[None]], tally: Tally) -> int:
    """Run it until it ends or a stop signal arrives, and print how far it came. Returns the exit code."""
    received: list[int] = []
    try:
        asyncio.run(_until_stopped(sending, received))
    except asyncio.CancelledError:
        print(tally.stopped(), file=sys.stderr)
        return 128 + received[0]
    except (GaveUp, Unreadable) as exc:
        complain(str(exc))
        print(tally.stopped(), file=sys.stderr)
        return 1
    except BrokenPipeError:
        print(tally.stopped(), file=sys.stderr)
        raise
    print(tally.finished(), file=sys.stderr)
    return 1 if tally.not_stored else 0


async def _until_stopped(sending: Callable[[], Awaitable[None]], received: list[int]) -> None:
    """Cancel it at the first stop signal, which is added to `received`.

    Once it has ended the exit code is known, and the kernel ignores these signals, so that none changes it.
    `add_signal_handler` would restore the default action when the loop closes.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop(number: int) -> None:
        if not received:
            task.cancel()
        received.append(number)

    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, _: loop.call_soon_threadsafe(stop, number))
    try:
        await sending()
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _positive_int(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{,17}", text):
        raise ArgumentTypeError(f"should be a line number from 1, got {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ArgumentTypeError(f"should be a number of seconds above 0, got {text!r}")
    return value
