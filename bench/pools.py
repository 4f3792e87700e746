"""Time and memory to turn rows into columns, by Arrow memory pool: `python -m bench.pools`.

Each pool is measured in its own process, with segments that are filled, merged and freed as in a collector.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import time

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from bench.openloop import quantiles
from bench.server import ROOT
from bench.stall import sample_events
from collector.journal.buffer import BATCH_ROWS
from collector.parts.table import merge, to_batch

POOLS = ("mimalloc", "jemalloc", "system")  # the first is Arrow's default
SEGMENTS = 4
SAMPLE_BATCHES = 50
SEGMENT_BATCHES = 213  # the 109,000 events of a full segment
KEPT = 2  # segments in memory: one being filled, one being flushed


def measure(pool: str) -> dict[str, float]:
    """Return quantiles of milliseconds per batch of 512 rows, CPU time per row, and the growth of peak memory in MB."""
    pa.set_memory_pool(getattr(pa, f"{pool}_memory_pool")())
    rows = [event.row for event in sample_events(SAMPLE_BATCHES * BATCH_ROWS, 1)]
    to_batch(rows[:1])  # imports what pyarrow leaves for later: 100 ms
    gc.collect()
    gc.freeze()
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    segments: list[list[pa.RecordBatch]] = []
    in_ms = []
    began = time.process_time()
    for _ in range(SEGMENTS):
        segments = [*segments[1 - KEPT :], []]
        for number in range(SEGMENT_BATCHES):
            at = number % SAMPLE_BATCHES * BATCH_ROWS
            batch = rows[at : at + BATCH_ROWS]
            started = time.perf_counter()
            segments[-1].append(to_batch(batch))
            in_ms.append((time.perf_counter() - started) * 1e3)
        merge(segments[-1])
    used_s = time.process_time() - began
    grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before_mb
    return {**quantiles(in_ms), "us_per_row": used_s / len(in_ms) / BATCH_ROWS * 1e6, "grown_mb": grown_mb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pool", nargs="?", choices=POOLS, help="measure only this pool, in this process; print JSON")
    pool = parser.parse_args().pool
    if pool is not None:
        print(json.dumps(measure(pool)))
        return
    table = Table("pool", "p50 ms", "p90", "p99", "max", "CPU us/row", "RSS grew by MB", box=box.MARKDOWN)
    for name in POOLS:
        command = [sys.executable, "-m", "bench.pools", name]
        found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
        figures = (found[key] for key in ("p50", "p90", "p99", "p100", "us_per_row"))
        table.add_row(name, *(f"{figure:.2f}" for figure in figures), f"{found['grown_mb']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
