"""One sender of batches: a connection that sends the next batch as soon as it gets the answer to the one before.

It is a separate process (`python -m bench.batch_load`), and reads the whole file before it starts.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from bench.openloop import quantiles
from bench.requests import read_requests
from bench.server import ROOT, NoResult, environment, pinned
from bench.wrk import Load

ANSWER_S = 60.0


def send(host: str, port: int, batches: Sequence[bytes], seconds: float, start: int = 0) -> Load:
    """Send batches for so long, and wait for the last answer. `acknowledged` counts events, the others count batches.

    Raises OSError and HTTPException.
    """
    acknowledged = sent = not_2xx = 0
    latencies: list[float] = []
    with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        now_s = began_s = time.perf_counter()
        while now_s - began_s < seconds:
            connection.sendall(batches[(start + sent) % len(batches)])
            with HTTPResponse(connection, method="POST") as response:
                response.begin()
                answer = json.loads(response.read())
            sent += 1
            if response.status == HTTPStatus.CREATED:
                acknowledged += answer["stored"]
            else:
                not_2xx += 1
            latencies.append(time.perf_counter() - now_s)
            now_s += latencies[-1]
    of = quantiles([latency_s * 1e3 for latency_s in latencies])
    return Load(now_s - began_s, sent, acknowledged, not_2xx, of["p50"], of["p90"], of["p99"], of["p100"])


class Sending:
    """A sender that runs beside the block."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def load(self) -> Load:
        """Wait until it has ended, and return what it did. Raises NoResult."""
        printed, _ = self._process.communicate()
        if self._process.returncode:
            raise NoResult(f"the sender of batches exited with {self._process.returncode}")
        return Load(**json.loads(printed))


@contextmanager
def sending(url: str, batches: Path, seconds: float, *, start: int = 0, cores: str | None = None) -> Iterator[Sending]:
    """Run a sender, which is killed if it still runs when the block ends."""
    command = [sys.executable, "-m", "bench.batch_load", url, str(batches), str(seconds), str(start)]
    with subprocess.Popen(
        pinned(command, cores), stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    ) as process:
        try:
            yield Sending(process)
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("batches", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("start", type=int)
    arguments = parser.parse_args()
    address = urlsplit(arguments.url)
    assert address.hostname is not None
    assert address.port is not None
    batches = read_requests(arguments.batches)
    print(json.dumps(asdict(send(address.hostname, address.port, batches, arguments.seconds, arguments.start))))


if __name__ == "__main__":
    main()
