"""What a small part costs: `python -m bench.parts`. CPU time to write, sync and publish one, by its rows.

Parts by site and date of 10,000 sites have 6 rows each at 1,000 events a second, and 28 at 14,000.
"""

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.stall import NOON_US, sample_events
from collector.clock import US_PER_DAY
from collector.journal.buffer import BATCH_ROWS
from collector.parts.naming import new_segment_id
from collector.parts.section import Section
from collector.parts.table import settle_memory_pool
from collector.parts.writer import PartWriter
from collector.publish.local import Folders

ROWS = (7, 28, 256, 1_000)  # of a part
SITES = 100
ROUNDS = 10


class Segment:
    """A segment with a part for each site, written anew by each call."""

    def __init__(self, rows: int, data_dir: Path) -> None:
        """`rows` is the number of rows of each part."""
        self._events = list(sample_events(SITES * rows, SITES))
        self._writer = PartWriter(Folders(data_dir), "0", compression="zstd")
        self._writer.prepare()

    def __call__(self) -> dict[str, float]:
        """Return the CPU time of a part in us, and its size in bytes."""
        section = Section()
        for event in self._events:
            section.append((NOON_US // US_PER_DAY, event.site_id), event.row, event.size_bytes)
            if len(section.rows) == BATCH_ROWS:
                section.to_columns(compress=False)
        gc.collect()
        began = time.process_time()
        parts = self._writer.write_events(new_segment_id(), [section], by_site=True)
        used_s = time.process_time() - began
        return {"us": used_s / SITES * 1e6, "size_bytes": sum(part.size_bytes for part in parts) / SITES}


def measure() -> dict[int, dict[str, float]]:
    """Measure parts of each size in turn, for a few rounds. Returns the least, as other programs disturb."""
    with tempfile.TemporaryDirectory() as folder:
        segments = {rows: Segment(rows, Path(folder)) for rows in ROWS}
        for write in segments.values():  # make the folders
            write()
        found = [{rows: write() for rows, write in segments.items()} for _ in range(ROUNDS)]
    return {rows: min((each[rows] for each in found), key=lambda figures: figures["us"]) for rows in ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args().json
    settle_memory_pool()
    found = measure()
    if as_json:
        print(json.dumps(found))
        return
    table = Table("rows", "CPU us/part", "us/row", "bytes", box=box.MARKDOWN)
    for rows, figures in found.items():
        table.add_row(str(rows), f"{figures['us']:.0f}", f"{figures['us'] / rows:.1f}", f"{figures['size_bytes']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
