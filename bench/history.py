"""`collector import`: a file of history, sent to a collector on all cores.

The events are those of bench/requests.py, each many times with another session: an old collector's, of the last 30
days in order, with the address and the user agent of each visitor.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from bench.batch_requests import on_behalf
from bench.peak import Shape, event_loop_lag
from bench.requests import requests, site_name
from bench.results import Result
from bench.server import MemoryWatch, NoResult, started
from bench.subject import Setup, collecting, command, parts, variables
from collector.sender_keys import fingerprint, new_key

EVENTS = 1_000_000
DAYS = 30
SESSION = b'{"session_id":"'  # every event begins with it, and 24 hex digits
_TIME = "2026-01-01T00:00:00.000Z"


def history(events: int, different: int, until: datetime, size_bytes: int = 0, seed: int = 1) -> Iterator[bytes]:
    """Yield lines of NDJSON. `different`: how many differ in more than session and time."""
    made = [
        on_behalf(request, received_at=_TIME).split(_TIME.encode())
        for request in requests(min(different, events), 1, size_bytes, seed)
    ]
    first, step = until - timedelta(days=DAYS), timedelta(days=DAYS) / events
    for number in range(events):
        before, after = made[number % len(made)]
        received = (first + step * number).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        yield b"%b%024x%b%b%b\n" % (SESSION, number, before[len(SESSION) + 24 :], received.encode(), after)


def import_history(setup: Setup, shape: Shape, events: int = EVENTS) -> Result:
    """Import once. Raises NoResult if an event is lost."""
    console = Console(stderr=True, highlight=False)
    key = new_key()
    setup = replace(setup, sites=1, cores=None, keys=(fingerprint(key),))
    with tempfile.TemporaryDirectory(dir=shape.folder) as name:
        folder = Path(name)
        file, key_file = folder / "history.ndjson", folder / "key"
        key_file.write_text(key + "\n")
        key_file.chmod(0o600)
        console.print(f"writing {events:,} events")
        _write(file, history(events, shape.requests, datetime.now(UTC), shape.size_bytes, shape.seed))
        file_bytes = file.stat().st_size
        with collecting(folder, setup) as collector:
            before_s = collector.server.cpu_s()
            began_s = time.perf_counter()
            at_work = folder / "import"
            at_work.mkdir()
            options = ("--site", site_name(0), "--url", collector.url, "--key-file", str(key_file))
            with (
                MemoryWatch(collector.server.pid) as memory,
                started(command(setup, "import", str(file), *options), at_work, env=variables(setup)) as importer,
                MemoryWatch(importer.pid) as importer_memory,
            ):
                if importer.wait() != 0:
                    raise NoResult(f"the import exited with {importer.popen.returncode}:\n{importer.tail()}")
            took_s = time.perf_counter() - began_s
            lag = event_loop_lag(collector)
            collector.finish(events)
            until_parquet_s = time.perf_counter() - began_s
            written = [path.stat().st_size for path in parts(collector.data_dir)]
            used_s = collector.server.cpu_s() - before_s
    run: Result = {
        "events": events,
        "days": DAYS,
        "file_mb": file_bytes / 1e6,
        "took_s": took_s,
        "until_parquet_s": until_parquet_s,
        "per_second": events / took_s,
        "cpu_us_per_event": used_s / events * 1e6,
        "importer_cpu_us_per_event": importer.cpu_s() / events * 1e6,
        "rss_peak_mb": memory.peak_bytes / 1e6,
        "importer_rss_peak_mb": importer_memory.peak_bytes / 1e6,
        "parts": len(written),
        "part_bytes_per_event": sum(written) / events,
        "event_loop_lag": lag,
    }
    console.print(f"{took_s:.1f} s, {run['per_second']:,.0f} events/s")
    return run


def _write(path: Path, lines: Iterator[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())  # or the kernel would write it during the import, and the journal's syncs would wait
