"""`collector inspect`: what is in a data_dir, a segment or a part, and whether all of it can be read."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from collector.boot.claims import StartError
from collector.journal.quarantine import QUARANTINE
from collector.journal.record import HEADER_BYTES, NewerFormat, Record, decode_header, scan
from collector.journal.segment import SEGMENT_NAME
from collector.parts.naming import STAGING
from collector.parts.table import EVENT_SCHEMA

T = TypeVar("T")

# A file or a pipe has no width of its own; this fits the longest site id.
WIDTH_OF_FILES = 180


@dataclass(frozen=True, slots=True)
class Health:
    """What one part or segment holds; `problem` says what of it cannot be read, in one line."""

    path: Path
    rows: int = 0
    size_bytes: int = 0
    first: datetime | None = None
    last: datetime | None = None
    problem: str | None = None
    note: str | None = None


def inspect(path: Path, newest: int) -> int:
    """Print tables of the parts and segments that are there, then the newest rows of parts that were asked for.

    The exit code is 1 if one is broken. Raises StartError where nothing is there.
    """
    if path.is_dir():
        root = path
        files = [file for file in path.rglob("*") if STAGING not in file.relative_to(root).parts]
    elif path.is_file():
        root, files = path.parent, [path]
    else:
        raise StartError(f"{path}: no such file or folder")
    kept = sorted(file for file in files if file.parent.name == QUARANTINE and file.is_file() and file != path)
    segments = sorted(file for file in files if SEGMENT_NAME.fullmatch(file.name) and file not in kept)
    parts = sorted(file for file in files if file.suffix == ".parquet" or (file == path and not segments))
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    looked = _still_there(look(part) for part in shown(parts, "reading"))
    of_segments = _still_there(look_at_segment(segment) for segment in shown(segments, "reading"))
    if looked or not segments:
        console.print(_table(root, looked, "parts"))
    if segments:
        console.print(_table(root, of_segments, "segments"))
    for file in kept:
        print(f"in quarantine: {file.relative_to(root)}: {file.stat().st_size} bytes")
    for health in of_segments:
        if health.note:
            print(f"{health.path}: {health.note}")
    broken = [health for health in looked + of_segments if health.problem]
    for health in broken:
        print(f"broken: {health.path}: {health.problem}", file=sys.stderr)
    if newest:
        for row in _newest_events([health for health in looked if not health.problem], newest):
            print(json.dumps(row, default=str, ensure_ascii=False))
    return 1 if broken else 0


def _still_there(looked: Iterable[Health]) -> list[Health]:
    """Without what a collector that serves has released or dropped meanwhile: that is no fault."""
    return [health for health in looked if not health.problem or health.path.exists()]


def look_at_segment(path: Path) -> Health:
    """Read every record of a segment, its CRC included. A torn tail is no fault: a crash leaves one."""
    rows = damaged = torn = 0
    first_us = last_us = None
    match = SEGMENT_NAME.fullmatch(path.name)
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            header = decode_header(head)
            damaged += HEADER_BYTES if header is None and len(head) == HEADER_BYTES else 0
            for found in scan(file, header.segment_id if header else match[1] if match else ""):
                if isinstance(found, Record):
                    rows += 1
                    first_us = min(found.received_us, first_us or found.received_us)
                    last_us = max(found.received_us, last_us or found.received_us)
                elif found.tail:
                    torn = found.end - found.start
                else:
                    damaged += found.end - found.start
            size_bytes = file.tell()  # its name may be gone already
    except (OSError, NewerFormat) as exc:
        return Health(path, problem=str(exc))
    first, last = (None if us is None else datetime.fromtimestamp(us / 1e6, UTC) for us in (first_us, last_us))
    problem = f"{damaged} bytes are damaged" if damaged else None
    note = f"a torn tail of {torn} bytes; with fsync and a sound disk acknowledged to nobody" if torn else None
    return Health(path, rows, size_bytes, first, last, problem, note)


def look(path: Path) -> Health:
    """Read the whole part, checksums included."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as part:
            times = [batch["received_at"] for batch in part.iter_batches()]
            span = pc.min_max(pa.chunked_array(times, pa.timestamp("us", tz="UTC"))).as_py()
            rows = sum(len(column) for column in times)
            promised = (part.metadata.metadata or {}).get(b"collector.rows")
        problem = None if promised in (None, b"%d" % rows) else f"{rows} rows, but its footer promises {promised!r}"
        return Health(path, rows, path.stat().st_size, span["min"], span["max"], problem)
    except (OSError, KeyError, pa.ArrowException) as exc:
        return Health(path, problem=str(exc).partition("\n")[0])


def shown(paths: Sequence[T], doing: str) -> Iterator[T]:
    """The same, with a progress bar where there is a terminal."""
    terminal = Console(stderr=True)
    yield from track(paths, doing, console=terminal, disable=not terminal.is_terminal, transient=True)


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
            escape(str(folder.relative_to(root))),
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


def _newest_events(readable: list[Health], newest: int) -> list[dict[str, Any]]:
    """The events received last, whatever parts they are in, what is null left out; rejected events are none."""
    parts = [health for health in readable if health.rows and pq.read_schema(health.path).names == EVENT_SCHEMA.names]
    rows: list[dict[str, Any]] = []
    for health in sorted(parts, key=lambda health: str(health.last), reverse=True):
        if len(rows) == newest and rows[0]["received_at"] >= health.last:
            break  # this part, and so all that follow, end before the oldest row that is wanted
        with pq.ParquetFile(health.path) as part:
            last = part.read().sort_by("received_at").slice(max(0, health.rows - newest)).to_pylist()
        rows = sorted(rows + last, key=lambda row: row["received_at"])[-newest:]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
