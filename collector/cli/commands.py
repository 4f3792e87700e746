"""The commands, each from its arguments to its exit code."""

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from rich.progress import wrap_file

from collector.cli.doctor.command import doctor
from collector.cli.inspect import inspect, shown
from collector.cli.install import install
from collector.cli.lines import Line, lines
from collector.clock import SystemClock
from collector.config import Config, Server, SiteSettings
from collector.config_file import ConfigError, load
from collector.daemon.layout import check_layout, unreadable
from collector.daemon.resources import StartError, owned
from collector.daemon.wiring import build_stages
from collector.edge.request import too_large
from collector.events import CONTRACT, Event, Refused
from collector.ingest.pipeline import accept, arrive, tracking_enabled
from collector.journal.record import JOURNAL
from collector.lake.expire import expire as drop_days
from collector.log.setup import set_up_logging
from collector.parts.table import EVENT_SCHEMA
from collector.sites import Site, build_site

__all__ = ["check_config", "doctor", "expire", "inspect", "install", "recover", "schema", "validate"]


def check_config(file: Path) -> int:
    """Read the file as `serve` would, environment included, and look whether the data_dir fits it."""
    config = load(file)
    check_layout(file, config.storage)
    for unseen in unreadable(config.storage.data_dir):
        print(f"{unseen}: cannot be looked into, so partition_by was not held against it", file=sys.stderr)
    print(f"{file}: good; {len(config.sites)} sites")
    return 0


def schema(*, parquet: bool) -> int:
    """Print the contract as JSON Schema, or the columns of a part."""
    if parquet:
        for field in EVENT_SCHEMA:
            print(f"{field.name}: {field.type}")
    else:
        print(json.dumps(CONTRACT, indent=2, ensure_ascii=False))
    return 0


def validate(file: str, site_id: str | None, config_file: Path) -> int:
    """Print what would become of each line, for a strict site with every error; 1 if any would not be stored."""
    site, max_body_bytes = _site(site_id, config_file)
    arrival = arrive(IPv4Address("127.0.0.1"), origin=None, referer=None, user_agent=None)
    total = dropped = 0
    for number, body in _lines(file, max_body_bytes):
        total += 1
        outcome = (
            tracking_enabled(site, arrival)
            or too_large(len(body), max_body_bytes)
            or accept(site, arrival, body, 0, lambda address, received_us: None)
        )
        if isinstance(outcome, Event):
            print(f"{number}: stored")
            continue
        dropped += 1
        errors = outcome.errors if isinstance(outcome, Refused) else ()  # all of them, of a strict site
        for words in errors or (outcome.message,):
            print(f"{number}: {outcome.reason.value}: {words}")
    print(f"{total - dropped} of {total} events would be stored", file=sys.stderr)
    return 1 if dropped else 0


def recover(config_file: Path) -> int:
    """Turn left-over segments into parts; 1 if any is left."""
    config = load(config_file)
    set_up_logging(logging.WARNING)
    data_dir = _folder(config.storage.data_dir)
    if not (data_dir / JOURNAL).exists():  # maybe its volume is not mounted: nothing should be made beneath it
        print("recovered 0 events from 0 segments; 0 are left")
        return 0
    with owned(data_dir) as owner, owner.entered() as root:
        stages = build_stages(config, SystemClock(), root=root)
        try:
            stages.writer.prepare()
            segments = stages.store.left_over()
        except OSError as exc:
            raise StartError(f"data_dir {data_dir}: {exc.strerror}: {data_dir / str(exc.filename)}") from None
        rows = left = 0
        for segment in shown(segments, "recovering"):
            try:
                events = sum(part.rows for part in stages.flush_segment(segment))
            except Exception as exc:  # noqa: BLE001 - whatever it is, the segment stays, and keeps back no other
                left += 1
                print(f"{data_dir / str(segment.path)}: stays: {exc}", file=sys.stderr)
            else:
                rows += events
                if not sys.stderr.isatty():
                    print(f"{data_dir / str(segment.path)}: {events} events")
    left += stages.store.newer
    print(f"recovered {rows} events from {len(segments) + stages.store.newer - left} segments; {left} are left")
    return 1 if left else 0


def expire(days: int, config_file: Path) -> int:
    """Drop the parts of all days but today and the `days` before it."""
    data_dir = _folder(load(config_file).storage.data_dir)
    try:
        dropped = drop_days(data_dir, datetime.now(UTC).date(), days, lambda folders: shown(folders, "dropping"))
    except OSError as exc:
        raise StartError(f"{exc.filename}: {exc.strerror}") from None
    print(f"dropped {dropped} parts")
    return 0


def _folder(data_dir: Path) -> Path:
    """It, if it is there. Raises StartError."""
    try:
        is_folder = data_dir.is_dir()
    except OSError as exc:  # a name that is too long, a folder above it that may not be looked into
        raise StartError(f"data_dir {data_dir}: {exc.strerror}") from None
    if not is_folder:
        raise StartError(f"data_dir {data_dir}: is not a folder")
    return data_dir


def _site(site_id: str | None, config_file: Path) -> tuple[Site, int]:
    """The site and the largest body it takes."""
    if site_id is None:
        return build_site("any", SiteSettings()), Server().max_body_bytes
    config: Config = load(config_file)
    if site_id not in config.sites:
        raise ConfigError([f"{config_file}: has no site {site_id}"])
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
