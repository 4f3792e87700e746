"""The closed loop: wrk with a Lua script, whose connections send again as soon as they get a response.

A closed loop understates latency during stalls, and wrk 4 only estimates a correction. Use bench/openloop.py for
latency.
"""

import json
import math
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.server import NoResult, pinned

SCRIPT = Path(__file__).with_name("wrk.lua")

# How long wrk waits for the last responses. It cannot be stopped early, even once it has them all.
DRAIN_S = 2


@dataclass(frozen=True, slots=True)
class Load:
    """The requests and responses of one run of wrk."""

    seconds: float
    sent: int
    acknowledged: int  # answered with 2xx or 3xx; counting rows shows that all were 201
    not_2xx: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float

    @property
    def per_second(self) -> float:
        return self.acknowledged / self.seconds


def run_wrk(
    url: str,
    requests: Path,
    seconds: float,
    *,
    connections: int,
    threads: int = 1,
    start: int = 0,
    cores: str | None = None,
) -> Load:
    """Load the server for `seconds`. Raises NoResult if a response is missing."""
    if shutil.which("wrk") is None:
        raise NoResult("wrk is not on the PATH (Debian: apt-get install wrk)")
    command = [
        *("wrk", "-t", str(threads), "-c", str(connections), "-d", str(math.ceil(seconds) + DRAIN_S)),
        *("--timeout", "60s", "-s", str(SCRIPT), url, "--", str(requests), str(seconds), str(start)),
    ]
    done = subprocess.run(pinned(command, cores), capture_output=True, text=True)
    return parse_output(done.stdout + done.stderr, seconds)


def parse_output(text: str, seconds: float) -> Load:
    """Parse what the script's `done` printed. Raises NoResult if that is absent or a response is missing."""
    lines = [line.removeprefix("RESULT ") for line in text.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise NoResult(f"wrk failed:\n{text}")
    found = json.loads(lines[-1])
    if found["sent"] != found["answered"] or found["failed"]:
        raise NoResult(
            f"wrk sent {found['sent']:,} requests and got {found['answered']:,} responses, {found['failed']:,} failures"
        )
    acknowledged = found["answered"] - found["not_2xx"]
    keys = ("p50_ms", "p90_ms", "p99_ms", "max_ms")
    return Load(seconds, found["sent"], acknowledged, found["not_2xx"], *(found[key] for key in keys))
