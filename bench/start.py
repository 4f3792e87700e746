"""Start-up time: from the start of the process to its first 201, which means that the event is on disk.

Prints the median of each kind of start. `first` includes unpacking, if the command is the binary. `cold` follows an
earlier start, with the files evicted from the page cache. `warm` has them in memory.

    python -m bench.start [--rounds N] dist/collector
    python -m bench.start [--rounds N] .venv/bin/python -m collector
"""

import argparse
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.server import NoResult, environment

BODY = (
    b'{"session_id": "s-1", "visitor_id": "visitor-1", "event_type": "pageview", "page_path": "/pricing",'
    b' "event_time": "2026-05-12T10:00:00Z"}'
)
REQUEST = b"POST /public/demo/analytics/collect HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
PATIENCE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.start")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        took: dict[str, list[float]] = {"first": [], "cold": [], "warm": []}
        for number in range(arguments.rounds):
            # A new folder per round: ext4 is slow to create files where others were just deleted.
            unpacked = Path(name, f"unpacked-{number}")
            for kind, times in took.items():
                if kind == "cold":
                    evict(unpacked, Path(arguments.command[0]))
                times.append(first_201_s(arguments.command, Path(name, f"{kind}-{number}"), unpacked))
        for kind, times in took.items():
            print(f"{kind:>6}  {statistics.median(times):.2f} s   ({min(times):.2f} to {max(times):.2f})")


def first_201_s(command: Sequence[str], folder: Path, unpacked: Path) -> float:
    """Start a collector with nothing to recover, time its first 201 in seconds, and stop it. Raises NoResult."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder.mkdir()
    config = folder / "collector.toml"
    config.write_text(
        f'[server]\nport = {port}\n[admin]\nport = 0\n[storage]\ndata_dir = "{folder}/data"\n[sites.demo]\n'
    )
    variables = environment() | {"COLLECTOR_UNPACK_DIR": str(unpacked)}
    began = time.perf_counter()
    process = subprocess.Popen([*command, "serve", "--config", config], env=variables, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
                    connection.sendall(REQUEST)
                    answer = connection.recv(65536)
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.perf_counter() - began > PATIENCE_S:
                    raise NoResult(f"{command[0]} is not listening (exit code {process.poll()})") from None
                time.sleep(0.001)
        took_s = time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()
    if not answer.startswith(b"HTTP/1.1 201 "):
        raise NoResult(f"expected a 201, got {answer[:40]!r}")
    return took_s


def evict(*paths: Path) -> None:
    """Write files to disk and drop them from the page cache."""
    os.sync()
    for path in paths:
        for file in [path] if path.is_file() else filter(Path.is_file, path.rglob("*")):
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


main()
