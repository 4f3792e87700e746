"""Recovery: the time to publish the segments that a killed collector left behind.

A collector that never flushes accepts events in the open loop and is killed. Then `collector recover` publishes its
journal as parts. The time includes process start-up; the CPU time is that of the entire process.
"""

import signal
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.openloop import run_paced
from bench.peak import Shape, peak
from bench.requests import write_requests
from bench.results import Result
from bench.server import NoResult
from bench.subject import Setup, check_rows, collecting, count_rows, parts

# Nothing may be flushed before the kill. These limits keep in one segment what would otherwise fill several.
UNFLUSHED = {"flush_interval_s": 86_400, "segment_max_bytes": 1 << 30}
SHARE_OF_PEAK = 0.6


def recovery(setup: Setup, shape: Shape, events: int) -> Result:
    """Kill and recover once. Raises NoResult if rows and acknowledged events differ in number."""
    setup = replace(setup, settings=setup.settings | {"storage": setup.settings.get("storage", {}) | UNFLUSHED})
    rate = SHARE_OF_PEAK * peak(setup, replace(shape, seconds=3.0, labels={}))["per_second"]
    with tempfile.TemporaryDirectory(dir=shape.folder) as name:
        folder = Path(name)
        requests = folder / "requests"
        write_requests(requests, shape.requests, setup.sites, shape.size_bytes, shape.seed)
        with collecting(folder, setup) as collector:
            run = run_paced(
                collector.url,
                requests,
                rate,
                events / rate,
                connections=shape.connections,
                cores=shape.load_cores,
            )
            collector.server.stop(signal.SIGKILL)
            if parts(collector.data_dir):
                raise NoResult("parts were published before the kill, so less is left to recover than was written")
            segments = [path.stat().st_size for path in (collector.data_dir / "journal").glob("*/*.segment")]
            before = collector.server.cpu_s()
            took_s = collector.recover()
            check_rows(run.acknowledged, count_rows(collector.data_dir))
    return {
        "events": run.acknowledged,
        "segments": len(segments),
        "segment_bytes_per_event": sum(segments) / run.acknowledged,
        "took_s": took_s,
        "s_per_million": took_s / run.acknowledged * 1e6,
        "cpu_us_per_event": (collector.server.cpu_s() - before) / run.acknowledged * 1e6,
    }
