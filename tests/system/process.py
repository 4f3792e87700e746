"""Starts the real collector as a process with its own configuration, and reads its log from stderr.

Every process listens on free ports of 127.0.0.1 and runs in the test's folder, so `PYTHONPATH` decides which copy of
the collector runs. It has ended when the `with` block ends, whatever happens inside. COLLECTOR_COMMAND is the path of
another collector to run instead, such as the binary.
"""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.support import ADMIN, LISTENING, event, read_rows

COMMAND = (
    (os.environ["COLLECTOR_COMMAND"],) if "COLLECTOR_COMMAND" in os.environ else (sys.executable, "-m", "collector")
)
READY_S = 20.0
STOP_S = 30.0
POLL_S = 0.02

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, as a client sees it."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True, slots=True)
class Scrape:
    """One reading of /metrics."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float:
        return self.samples.get((name, frozenset(labels.items())), 0.0)

    def by(self, label: str, name: str, **labels: str) -> dict[str, int]:
        """The samples with this name and these labels, by one more label. Zeros are left out."""
        found = {}
        for (sample, have), value in self.samples.items():
            of = dict(have)
            if sample == name and label in of and labels.items() <= of.items() and value:
                found[of[label]] = int(value)
        return found


@dataclass(frozen=True, slots=True)
class Process:
    """A collector process that serves or has served."""

    popen: subprocess.Popen[bytes]
    folder: Path
    url: str
    admin: str

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def collect_url(self, site: str = "demo") -> str:
        return f"{self.url}/public/{site}/analytics/collect"

    def post(
        self, data: bytes | dict[str, Any] | None = None, site: str = "demo", headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one event on a new connection."""
        if data is None:
            data = event()
        payload = data if isinstance(data, bytes) else json.dumps(data).encode()
        address = urlsplit(self.url)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        try:
            connection.request("POST", f"/public/{site}/analytics/collect", payload, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def ask(self, path: str, *, public: bool = False) -> tuple[int, str]:
        """Status and text of a page of the admin listener, or of the public listener."""
        address = urlsplit(self.url if public else self.admin)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metrics(self) -> Scrape:
        with urlopen(f"{self.admin}/metrics", timeout=10) as response:
            text = response.read().decode()
        return Scrape(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def published(self) -> None:
        """Wait until every stored event is in a part."""
        wait_until(lambda: not self.metrics().by("site", "collector_buffered_events"), "everything is published")

    def rows(self, site: str = "demo") -> list[dict[str, Any]]:
        return read_rows(self.data_dir / "events" / f"site={site}")

    def parts(self) -> list[Path]:
        return sorted((self.data_dir / "events").rglob("*.parquet"))

    def send_signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def logged(self, text: str) -> None:
        """Wait until the log contains the text."""
        wait_until(lambda: text in self.log(), f"the log contains {text!r}")

    def exit_code(self, within_s: float = STOP_S) -> int:
        return self.popen.wait(within_s)

    async def exited(self) -> int:
        """Wait for the exit code without blocking the event loop."""
        return await asyncio.to_thread(self.exit_code)

    def stop(self) -> int:
        """Send SIGTERM, and wait for the exit code."""
        self.send_signal(signal.SIGTERM)
        return self.exit_code()


def wait_until(true: Callable[[], bool], what: str, within_s: float = READY_S) -> None:
    """Poll until `true()`. Fails after `within_s` with the condition in words, `what`."""
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, f"still not true after {within_s:g} s: {what}"
        time.sleep(POLL_S)


def toml(sites: Settings, sections: Settings) -> str:
    """A configuration file. Strings, numbers, booleans and lists look the same in JSON and TOML."""
    tables = {f"[{name}]": table for name, table in sections.items()}
    tables |= {f'[sites."{site_id}"]': table for site_id, table in sites.items()}
    return "\n".join(
        line
        for head, table in tables.items()
        for line in (head, *(f"{key} = {json.dumps(value, default=str)}" for key, value in table.items()))
    )


def configure(folder: Path, sites: Settings | None = None, **sections: dict[str, Any]) -> Path:
    """Write `collector.toml`. Defaults: free ports, `folder/data`, no rate limit and one site, `demo`."""
    defaults: Settings = {
        "server": {"port": 0},
        "admin": {"port": 0},
        "storage": {"data_dir": folder / "data", "min_free_bytes": 0},
        "rate_limit": {"requests_per_minute": 0},
    }
    merged = {name: defaults.get(name, {}) | sections.get(name, {}) for name in defaults | sections}
    file = folder / "collector.toml"
    file.write_text(toml({"demo": {}} if sites is None else sites, merged))
    return file


def environment() -> dict[str, str]:
    """The test's environment without variables that would override the configuration."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COLLECTOR__")}


def run(*arguments: str | Path, folder: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run the collector with these arguments until it ends."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        cwd=folder,
        env=environment(),
        capture_output=True,
        timeout=READY_S,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def serving(
    folder: Path,
    sites: Settings | None = None,
    *,
    descriptors: int | None = None,
    command: Sequence[str] = COMMAND,
    config_argument: str | None = None,
    **sections: dict[str, Any],
) -> Iterator[Process]:
    """A collector that serves, with `collector.toml`, `stderr` and `data` in `folder`.

    `descriptors` limits its file descriptors. `command` is the command line before `serve`. `config_argument` is the
    path of the configuration as the collector sees it, if that differs from ours.
    """
    limited = [] if descriptors is None else ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"]
    config_file = configure(folder, sites, **sections)
    log_file = folder / "stderr"
    with log_file.open("wb") as log:
        popen = subprocess.Popen(
            [*limited, *command, "serve", "--config", config_argument or str(config_file)],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        public, admin = listening(popen, log_file)
        yield Process(popen, folder, public, admin)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(STOP_S)


def listening(popen: subprocess.Popen[bytes], log_file: Path) -> tuple[str, str]:
    """Wait until the process serves; returns its public and admin URLs, read from its log."""
    wait_until(lambda: popen.poll() is not None or _listens(log_file.read_text()), "it listens or has ended")
    public, admin = (_found(pattern, log_file.read_text()) for pattern in (LISTENING, ADMIN))
    return public, admin


def _listens(log: str) -> bool:
    """Whether both lines are there, complete."""
    return all(pattern.search(log) for pattern in (LISTENING, ADMIN)) and log.endswith("\n")


def _found(pattern: re.Pattern[str], log: str) -> str:
    match = pattern.search(log)
    assert match is not None, f"the collector did not start:\n{log}"
    return match[1]
