"""The collector under test: a real process with a real configuration and its own folder.

A run has a result only if the published parts have exactly as many rows as there were events answered with 201.
"""

import json
import os
import re
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
from prometheus_client.parser import text_string_to_metric_families

from bench.requests import site_name
from bench.server import POLL_S, READY_S, ROOT, NoResult, Server, environment, pinned, started

LISTENING = re.compile(r"listening on (http://\S+)\s")
ADMIN = re.compile(r"admin on (http://\S+)\s")

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Setup:
    """How to run the collector. Settings not named here keep their defaults."""

    sites: int = 1
    settings: Settings = field(default_factory=dict)
    python: str = sys.executable
    cores: str | None = None
    root: Path = ROOT
    binary: Path | None = None  # runs instead of `python -m collector` in `root`
    keys: tuple[str, ...] = ()  # fingerprints, of every site


@dataclass(slots=True)
class Collector:
    """A collector process, running or ended."""

    server: Server
    setup: Setup
    folder: Path
    admin: str

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Scrape /metrics once; values by name and labels."""
        with urlopen(f"{self.admin}/metrics", timeout=60) as response:
            text = response.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def finish(self, acknowledged: int) -> None:
        """Stop with SIGTERM, publish what is left in the journal, and count rows. Raises NoResult."""
        code = self.server.stop()
        if code != 0:
            raise NoResult(f"the collector exited with {code}:\n{self.server.tail()}")
        self.recover()
        check_rows(acknowledged, count_rows(self.data_dir))

    def recover(self) -> float:
        """Run `collector recover` if segments are left, and add its CPU time. Returns the seconds it took."""
        if not any((self.data_dir / "journal").glob("*/*.segment")):
            return 0.0
        began = time.perf_counter()
        with started(
            command(self.setup, "recover", "--config", "collector.toml"),
            self.folder,
            env=variables(self.setup),
        ) as server:
            _, status, usage = os.wait4(server.pid, 0)
            server.popen.returncode = os.waitstatus_to_exitcode(status)
            assert self.server.ended_cpu_s is not None
            self.server.ended_cpu_s += usage.ru_utime + usage.ru_stime
            if server.popen.returncode != 0:
                raise NoResult(f"`collector recover` exited with {server.popen.returncode}:\n{server.tail()}")
        return time.perf_counter() - began


def check_rows(acknowledged: int, rows: int) -> None:
    """Raise NoResult unless there are as many rows as acknowledged events."""
    if rows != acknowledged:
        raise NoResult(f"{acknowledged:,} events were answered with 201, but {rows:,} are in the parts")


def parts(data_dir: Path) -> list[Path]:
    """Return the paths of the published parts."""
    return sorted((data_dir / "events").rglob("*.parquet"))


def count_rows(data_dir: Path) -> int:
    """Return the number of rows in all published parts."""
    return sum(pq.read_metadata(path).num_rows for path in parts(data_dir))


def configure(folder: Path, setup: Setup) -> Path:
    """Write a realistic `collector.toml`, with every check on that a request can pass through."""
    sections: Settings = {
        # Trusting the load generator as a proxy gives each of its thousands of clients its own rate limit.
        "server": {"port": 0, "trusted_proxies": ["127.0.0.1"]},
        "admin": {"port": 0},
        "storage": {"data_dir": "data"},
    }
    for name, table in setup.settings.items():
        sections[name] = sections.get(name, {}) | table
    tables = {f"[{name}]": table for name, table in sections.items()}
    tables |= {f"[sites.{site_name(number)}]": _site(number, setup.keys) for number in range(setup.sites)}
    path = folder / "collector.toml"
    path.write_text("\n".join(line for head, table in tables.items() for line in (head, *_lines(table))) + "\n")
    return path


def _site(number: int, keys: tuple[str, ...]) -> dict[str, Any]:
    host = f"{site_name(number)}.example"
    return {
        "allowed_origins": [f"https://www.{host}", f"*.{host}"],
        "excluded_ips": ["192.0.2.7", "198.51.100.0/24", "2001:db8:dead::/48"],
        "excluded_paths": ["/preview", "/admin/*"],
        **({"keys": list(keys)} if keys else {}),  # older versions do not know the setting
    }


def _lines(table: dict[str, Any]) -> Iterable[str]:
    # JSON strings, numbers, booleans and lists are valid TOML.
    return (f"{key} = {json.dumps(value)}" for key, value in table.items())


def parse_setting(text: str) -> tuple[str, str, Any]:
    """Split `storage.durability=fsync` into section, key and value. A value that is not TOML is taken as text."""
    name, equals, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not (equals and dot and section and key):
        raise ValueError(f"{text!r} should be SECTION.KEY=VALUE")
    try:
        return section, key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, value


def command(setup: Setup, *arguments: str) -> list[str]:
    program = [str(setup.binary)] if setup.binary else [setup.python, "-m", "collector"]
    return pinned([*program, *arguments], setup.cores)


def variables(setup: Setup) -> dict[str, str]:
    """Return the environment of the collector. The binary has its own code, so it gets no PYTHONPATH."""
    if setup.binary is None:
        return environment(setup.root)
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def with_binary(setup: Setup, path: Path) -> Setup:
    """Return the setup with the binary at `path` as its collector. Raises NoResult if that is not a program."""
    if not path.is_file() or not os.access(path, os.X_OK):
        raise NoResult(f"{path} is not a program")
    return replace(setup, binary=path.resolve())


def with_checkout(setup: Setup, root: Path) -> Setup:
    """Return the setup with another checkout's collector, and the Python of its `.venv` if it has one.

    Raises NoResult if `root` has no collector.
    """
    root = root.resolve()
    if not (root / "collector").is_dir():
        raise NoResult(f"{root} is neither a program nor a checkout of the collector")
    python = root / ".venv" / "bin" / "python"
    return replace(setup, root=root, binary=None, python=str(python) if python.exists() else setup.python)


@contextmanager
def collecting(folder: Path, setup: Setup) -> Iterator[Collector]:
    """Start a collector and yield it once it listens. Raises NoResult if it does not start."""
    config_file = configure(folder, setup)
    serve = command(setup, "serve", "--config", str(config_file))
    with started(serve, folder, env=variables(setup)) as server:
        until = time.monotonic() + READY_S
        while True:
            log = server.log.read_text()
            public, admin = LISTENING.search(log), ADMIN.search(log)
            if public and admin:
                break
            if server.popen.poll() is not None or time.monotonic() > until:
                raise NoResult(f"the collector did not start:\n{log}")
            time.sleep(POLL_S)
        server.url = public[1]
        yield Collector(server, setup, folder, admin[1])
