"""How late the event loop is when a thousand connections send, or close, at once: `python -m bench.herd`.

The collector is paused with SIGSTOP meanwhile, so one turn of its loop finds them all.
"""

import argparse
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from rich import print_json

from bench.peak import event_loop_lag
from bench.requests import requests
from bench.subject import Setup, collecting

BETWEEN_S = 0.05
STORED = b"HTTP/1.1 201 "


def herd(connections: int, rounds: int) -> dict[str, object]:
    """Return how many ticks of the event loop were late, by threshold. Raises NoResult."""
    cores = sorted(os.sched_getaffinity(0))
    sent = list(requests(connections))
    acknowledged = 0
    with (
        tempfile.TemporaryDirectory() as name,
        ExitStack() as opened,
        collecting(Path(name), Setup(cores=str(cores[0]))) as collector,
    ):
        url = urlsplit(collector.url)
        for _ in range(rounds):
            sockets = [
                opened.enter_context(socket.create_connection((url.hostname, url.port), timeout=30))
                for _ in range(connections)
            ]
            with stopped(collector.server.pid):
                for connection, request in zip(sockets, sent, strict=True):
                    connection.sendall(request)
            acknowledged += sum(connection.recv(4_096).startswith(STORED) for connection in sockets)
            time.sleep(BETWEEN_S)
            with stopped(collector.server.pid):
                opened.close()
            time.sleep(BETWEEN_S)
        samples = collector.metrics()
        ticks = {
            f"late_over_{milliseconds}_ms": samples[LAST] - samples[bucket(milliseconds)]
            for milliseconds in (5, 10, 20, 50)
        }
        lag = event_loop_lag(collector)
        collector.finish(acknowledged)
    return {"connections": connections, "rounds": rounds, "acknowledged": acknowledged, **ticks, **(lag or {})}


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Pause the process with SIGSTOP while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def bucket(milliseconds: float) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the key of the lag histogram's bucket with that upper bound."""
    return "collector_event_loop_lag_seconds_bucket", (("le", f"{milliseconds / 1e3}"),)


LAST = "collector_event_loop_lag_seconds_bucket", (("le", "+Inf"),)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.herd", description=__doc__)
    parser.add_argument("--connections", type=int, default=1_000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=20, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    print_json(data=herd(arguments.connections, arguments.rounds))


if __name__ == "__main__":
    main()
