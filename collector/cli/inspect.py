"""`collector inspect`: show what a data_dir, segment or part contains, and whether all of it can be read."""

import json
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from collector.cli.files import Listing, is_gone, not_a_file, open_file, walk
from collector.cli.progress import with_progress
from collector.daemon.resources import StartError
from collector.journal.flush.quarantine import QUARANTINE
from collector.journal.record import HEADER_BYTES, Damage, Record, decode_header, scan
from collector.journal.segment import SEGMENT_NAME
from collector.log.setup import escape as on_one_line
from collector.parts.naming import STAGING
from collector.parts.table import EVENT_SCHEMA
from collector.wording import count

RECEIVED = EVENT_SCHEMA.field("received_at")
OUTSIDE = f"{RECEIVED.name} lies outside the years 1 to 9999"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The width of the table when the output is not a terminal; it fits the longest site id.
WIDTH_OF_FILES = 180


@dataclass(frozen=True, slots=True)
class Health:
    """What one part or segment contains; `problem` says in one line what of it cannot be read."""

    path: Path
    rows: int = 0
    size_bytes: int = 0
    first: datetime | None = None
    last: datetime | None = None
    problem: str | None = None
    note: str | None = None
    has_events: bool = False


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Show what a data_dir, a folder of it, a segment or a part contains: rows, sizes and times of receipt. Reads "
        "every byte and verifies the checksums. Exit 1 if a file is broken."
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a data_dir, a folder of it, a segment or a part")
    parser.add_argument(
        "--rows", type=_rows, default=0, metavar="N", help="also print the newest N events of the parts, as JSON lines"
    )


def _rows(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,30}", text, re.ASCII) is None:
        raise ArgumentTypeError(f"{text!r} should be a number of rows, such as 5")
    return int(text)


def run(arguments: Namespace) -> int:
    """Print tables of the parts and segments, then the newest rows of the parts. Return 1 if a file is broken.

    Raises StartError if the path does not exist or cannot be read.
    """
    path: Path = arguments.path
    root, listing = _listing(path)
    files = sorted(listing.paths)
    kept = [file for file in files if file.parent.name == QUARANTINE and os.path.isfile(file) and file != path]
    of_quarantine = frozenset(kept)
    segments = [file for file in files if SEGMENT_NAME.fullmatch(file.name) and file not in of_quarantine]
    parts = [file for file in files if file.suffix == ".parquet" or (file == path and not segments)]
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    looked = _still_there(look(part) for part in with_progress(parts, "reading"))
    of_segments = _still_there(look_at_segment(segment) for segment in with_progress(segments, "reading"))
    rows, unshown = _newest_events([health for health in looked if not health.problem], arguments.rows)
    if looked or not segments:
        console.print(_table(root, looked, "parts"))
    if segments:
        console.print(_table(root, of_segments, "segments"))
    for file in kept:
        with suppress(OSError):
            print(f"in quarantine: {on_one_line(str(file.relative_to(root)))}: {count(file.stat().st_size, 'byte')}")
    for health in of_segments:
        if health.note:
            print(f"{on_one_line(str(health.path))}: {health.note}")
    unread = [Health(folder, problem=_why(exc)) for folder, exc in listing.unread]
    broken = [health for health in unread + looked + of_segments + unshown if health.problem]
    for health in broken:
        print(on_one_line(f"broken: {health.path}: {health.problem}"), file=sys.stderr)
    for row in rows:
        print(json.dumps(row, default=str, ensure_ascii=False))
    return 1 if broken else 0


def _listing(path: Path) -> tuple[Path, Listing]:
    """The folder that printed names are relative to, and the paths to inspect. Raises StartError."""
    try:
        if path.is_dir():
            return path, walk(path, lambda name: name != STAGING)
        kind = not_a_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise StartError(f"{path}: no such file or folder") from None
    except OSError as exc:
        raise StartError(f"{path}: {exc.strerror}") from None
    if kind is not None:
        raise StartError(f"{path}: {kind}; should be a data_dir, a segment or a part")
    return path.parent, Listing([path])


def _still_there(looked: Iterable[Health]) -> list[Health]:
    """Leave out files that a serving collector has deleted meanwhile; they are not broken."""
    return [health for health in looked if not health.problem or not is_gone(health.path)]


def look_at_segment(path: Path) -> Health:
    """Read every record of a segment and check its CRC. A torn tail is not a problem: a crash leaves one."""
    rows = damaged = torn = 0
    moments: list[int] = []  # the first and the last
    match = SEGMENT_NAME.fullmatch(path.name)
    try:
        with open_file(path) as file:
            head = file.read(HEADER_BYTES)
            header = decode_header(head)
            damaged += HEADER_BYTES if header is None and len(head) == HEADER_BYTES else 0
            for found in scan(file, header.segment_id if header else match[1] if match else ""):
                if isinstance(found, Record):
                    rows += 1
                    moments = _ends([*moments, found.received_us])
                elif isinstance(found, Damage) and found.tail:
                    torn = found.end - found.start
                elif isinstance(found, Damage):
                    damaged += found.end - found.start
            size_bytes = file.tell()  # not by name, which may be deleted already
    except Exception as exc:  # noqa: BLE001 - whatever is wrong with this file, the others are still shown
        return Health(path, problem=_why(exc))
    first, last = map(_moment, moments or (None, None))
    damage = f"{count(damaged, 'byte')} damaged" if damaged else None
    problem = damage or (OUTSIDE if moments and None in (first, last) else None)
    tail = f'torn tail of {count(torn, "byte")}, left by a crash; with "fsync" and a sound disk, never acknowledged'
    return Health(path, rows, size_bytes, first, last, problem, tail if torn else None)


def look(path: Path) -> Health:
    """Read an entire part and verify its checksums."""
    try:
        # `open_file` accepts only regular files. Arrow opens the file again, here and below: a thread of Arrow that
        # still holds a file of Python when Python exits aborts the process, in 9 of 123 calls on a busy machine.
        with (
            open_file(path) as file,
            pa.OSFile(os.fsencode(path)) as source,
            pq.ParquetFile(source, page_checksum_verification=True) as part,
        ):
            return _of_part(path, part, os.fstat(file.fileno()).st_size)
    except Exception as exc:  # noqa: BLE001 - likewise; pyarrow raises many types of errors for foreign files
        return Health(path, problem=_why(exc))


def _of_part(path: Path, part: pq.ParquetFile, size_bytes: int) -> Health:
    schema = part.schema_arrow
    times = [field.type for field in schema if field.name == RECEIVED.name]
    if times != [RECEIVED.type]:
        columns = f"has {len(times) or 'no'} {RECEIVED.name} column{'s' * (len(times) > 1)}; should have one"
        kind = f"{RECEIVED.name} is {times[0]}; should be {RECEIVED.type}" if len(times) == 1 else columns
        return Health(path, size_bytes=size_bytes, problem=kind)
    rows = without = 0
    moments: list[int] = []  # the first and the last
    for batch in part.iter_batches():
        column = batch[RECEIVED.name]
        rows += len(column)
        without += column.null_count
        span = pc.min_max(column.cast(pa.int64())).as_py()
        moments = _ends([*moments, *(us for us in span.values() if us is not None)])
    first, last = map(_moment, moments or (None, None))
    promised: bytes | None = (part.metadata.metadata or {}).get(b"collector.rows")
    problem = None
    if promised not in (None, b"%d" % rows):
        problem = f"has {count(rows, 'row')}, but its footer says {promised.decode(errors='replace')}"
    elif without:
        problem = f"{RECEIVED.name} is null in {without} of {count(rows, 'row')}"
    elif moments and None in (first, last):
        problem = OUTSIDE
    return Health(path, rows, size_bytes, first, last, problem, has_events=schema.names == EVENT_SCHEMA.names)


def _ends(moments: list[int]) -> list[int]:
    return [min(moments), max(moments)] if moments else []


def _moment(us: int | None) -> datetime | None:
    """The moment as a datetime; None if it is outside the years that datetime supports, 1 to 9999."""
    try:
        return None if us is None else EPOCH + timedelta(microseconds=us)
    except OverflowError:
        return None


def _why(exc: Exception) -> str:
    """The first line of the error message."""
    said = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return said.strip().partition("\n")[0] or type(exc).__name__


def _table(root: Path, looked: list[Health], what: str) -> Table:
    table = Table(box=box.SIMPLE, show_footer=True)
    readable = [health for health in looked if not health.problem]
    table.add_column("folder", "all", overflow="fold")
    table.add_column(what, str(len(looked)), justify="right")
    table.add_column("rows", str(sum(health.rows for health in looked)), justify="right")
    table.add_column("size", decimal(sum(health.size_bytes for health in looked)), justify="right")
    table.add_column("received from")
    table.add_column("to")
    table.add_column("health", "good" if len(readable) == len(looked) else f"{len(looked) - len(readable)} broken")
    for folder, group in groupby(looked, key=lambda health: health.path.parent):
        parts = list(group)
        broken = sum(1 for health in parts if health.problem)
        times = [time for health in parts for time in (health.first, health.last) if time]
        table.add_row(
            escape(on_one_line(str(folder.relative_to(root)))),
            str(len(parts)),
            str(sum(health.rows for health in parts)),
            decimal(sum(health.size_bytes for health in parts)),
            _second(min(times, default=None)),
            _second(max(times, default=None)),
            f"{broken} broken" if broken else "good",
        )
    return table


def _second(time: datetime | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S") if time else "-"


def _newest_events(readable: list[Health], newest: int) -> tuple[list[dict[str, Any]], list[Health]]:
    """The last events received, from all parts but those of rejected events, without null values.

    Also returns the parts whose rows cannot be shown.
    """
    parts = [health for health in readable if health.rows and health.has_events] if newest else []
    rows: list[dict[str, Any]] = []
    unshown = []
    for health in sorted(parts, key=lambda health: str(health.last), reverse=True):
        if len(rows) == newest and rows[0][RECEIVED.name] >= health.last:
            break  # this part and all that follow end before the oldest row wanted
        try:
            with open_file(health.path), pa.OSFile(os.fsencode(health.path)) as source, pq.ParquetFile(source) as part:
                last = part.read().sort_by(RECEIVED.name).slice(max(0, health.rows - newest)).to_pylist()
        except FileNotFoundError:  # a serving collector has deleted it meanwhile
            continue
        except Exception as exc:  # noqa: BLE001 - a foreign part; the rows of the others are still shown
            unshown.append(Health(health.path, problem=f"its rows cannot be shown: {_why(exc)}"))
            continue
        rows = sorted(rows + last, key=lambda row: row[RECEIVED.name])[-newest:]
    return [{name: value for name, value in row.items() if value is not None} for row in rows], unshown
