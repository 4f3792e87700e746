"""`collector inspect`: what is in a data_dir or a part, and whether all of it can be read."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
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
from rich.progress import track
from rich.table import Table

from collector.boot.claims import StartError
from collector.parts.naming import STAGING
from collector.parts.table import EVENT_SCHEMA

# A file or a pipe has no width of its own; this fits the longest site id.
WIDTH_OF_FILES = 180


@dataclass(frozen=True, slots=True)
class Health:
    """What one part holds; `problem` says why it cannot be read, in one line."""

    path: Path
    rows: int = 0
    size_bytes: int = 0
    first: datetime | None = None
    last: datetime | None = None
    problem: str | None = None


def inspect(path: Path, newest: int) -> int:
    """Print a table of what is there, then the newest rows that were asked for.

    The exit code is 1 if a part is broken. Raises StartError where nothing is there.
    """
    if path.is_dir():
        root = path
        parts = sorted(part for part in path.rglob("*.parquet") if STAGING not in part.relative_to(root).parts)
    elif path.is_file():
        root, parts = path.parent, [path]
    else:
        raise StartError(f"{path}: no such file or folder")
    looked = [look(part) for part in _with_progress(parts)]
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    console.print(_table(root, looked))
    broken = [health for health in looked if health.problem]
    for health in broken:
        print(f"broken: {health.path}: {health.problem}", file=sys.stderr)
    if newest:
        for row in _newest_events([health for health in looked if not health.problem], newest):
            print(json.dumps(row, default=str, ensure_ascii=False))
    return 1 if broken else 0


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


def _with_progress(parts: list[Path]) -> Iterable[Path]:
    terminal = Console(stderr=True)
    return track(parts, "reading", console=terminal, disable=not terminal.is_terminal, transient=True)


def _table(root: Path, looked: list[Health]) -> Table:
    table = Table(box=box.SIMPLE, show_footer=True)
    readable = [health for health in looked if not health.problem]
    table.add_column("folder", "all", overflow="fold")
    table.add_column("parts", str(len(looked)), justify="right")
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
