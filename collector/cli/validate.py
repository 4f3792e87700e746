"""`collector validate`: report which events of a file would be stored. Nothing is stored."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from rich.progress import wrap_file

from collector.cli.config_argument import add_config_argument
from collector.cli.ndjson import Line, lines
from collector.config import Config, Server, SiteSettings
from collector.config_file import ConfigError, load
from collector.daemon.resources import StartError
from collector.edge.outcomes import too_large
from collector.events import Event, Refused
from collector.ingest.pipeline import Arrival, accept, tracking_enabled
from collector.sites import Site, build_site
from collector.wording import count


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Read events, one JSON object per line. Print for each line number whether the event would be stored, or why "
        "not. Nothing is stored. Exit 1 if any event would not be stored."
    )
    parser.add_argument(
        "file", nargs="?", default="-", metavar="FILE", help="newline-delimited JSON; default: standard input"
    )
    parser.add_argument(
        "--site", metavar="ID", help="apply the settings of this site of the configuration; default: default settings"
    )
    add_config_argument(parser)


def run(arguments: Namespace) -> int:
    """Print the outcome of each line, with every error if the site is strict; return 1 if any is not stored."""
    site, max_body_bytes = _site(arguments.site, arguments.config)
    arrival = Arrival(site, IPv4Address("127.0.0.1"))
    total = dropped = 0
    for number, body in _lines(arguments.file, max_body_bytes):
        total += 1
        outcome = (
            tracking_enabled(arrival)
            or (too_large(max_body_bytes) if len(body) > max_body_bytes else None)
            or accept(arrival, body, 0, lambda address, received_us: None)
        )
        if isinstance(outcome, Event):
            print(f"{number}: stored")
            continue
        dropped += 1
        errors = outcome.errors if isinstance(outcome, Refused) else ()  # a strict site lists all
        for message in errors or (outcome.message,):
            print(f"{number}: {outcome.reason.value}: {message}")
    print(f"{total - dropped} of {count(total, 'event')} would be stored", file=sys.stderr)
    return 1 if dropped else 0


def _site(site_id: str | None, config_file: Path) -> tuple[Site, int]:
    """The site, and the size in bytes of the largest body it accepts. Raises ConfigError."""
    if site_id is None:
        return build_site("any", SiteSettings()), Server().max_body_bytes
    config: Config = load(config_file)
    if site_id not in config.sites:
        raise ConfigError([f"{config_file}: has no [sites.{site_id}] section"])
    return build_site(site_id, config.sites[site_id]), config.server.max_body_bytes


def _lines(file: str, largest_bytes: int) -> Iterator[Line]:
    path = None if file == "-" else Path(file)
    try:
        if path is None:
            yield from lines(sys.stdin.buffer, largest_bytes)
            return
        with path.open("rb") as source:
            if sys.stderr.isatty():
                with wrap_file(source, total=path.stat().st_size, description="validating") as shown:
                    yield from lines(shown, largest_bytes)
            else:
                yield from lines(source, largest_bytes)
    except OSError as exc:
        raise StartError(f"{path or 'standard input'}: cannot be read: {exc.strerror}") from None
