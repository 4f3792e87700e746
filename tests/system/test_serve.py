"""The life of the real process: its promises under load, when it stops, and when it reloads."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from collector.thread_priority import LOW_PRIORITY
from tests.support import body, event, read_rows
from tests.system import wire
from tests.system.process import (
    COMMAND,
    STOP_S,
    Process,
    Scrape,
    configure,
    environment,
    serving,
    wait_until,
)

WAVES = 3
EVENTS = 30_000

# What clients send in turn: (site, changes to a valid event, status, reason).
MIX: tuple[tuple[str, dict[str, Any], int, str], ...] = (
    ("shop", {}, 201, ""),
    ("shop", {"lcp": 12.5, "page_title": "Größe 😀"}, 201, ""),
    ("shop", {"visitor_id": "short"}, 202, "invalid"),
    ("shop", {"page_path": "/admin/users?x=1"}, 202, "excluded_path"),
    ("blog", {"event_type": "scroll", "scroll_depth": 10**30}, 201, ""),
    ("blog", {"event_time": "yesterday"}, 201, ""),
    ("007", {}, 201, ""),
    ("strict", {"event_type": "nothing"}, 422, "invalid"),
    ("off", {}, 202, "tracking_disabled"),
    ("nosuch", {}, 404, "unknown_site"),
)
SITES: dict[str, dict[str, Any]] = {
    "shop": {"excluded_paths": ["/admin/*"]},
    "blog": {},
    "007": {},
    "strict": {"strict": True},
    "off": {"tracking": False},
}


@dataclass(frozen=True, slots=True)
class Load:
    """What clients sent and received, and the metrics, files and exit code of the collector."""

    outcomes: Counter[tuple[str, str]]
    unexpected: list[tuple[str, int, str]]
    acknowledged: dict[str, list[str]]
    scrape: Scrape
    process: Process
    exit_code: int

    def outcomes_of(self, site: str) -> dict[str, int]:
        return {outcome: count for (of, outcome), count in self.outcomes.items() if of == site}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """30,000 events of every kind in three waves, with a flush after each, then SIGTERM."""
    outcomes: Counter[tuple[str, str]] = Counter()
    unexpected: list[tuple[str, int, str]] = []
    acknowledged: dict[str, list[str]] = {}
    ids = itertools.count()
    with serving(tmp_path_factory.mktemp("load"), SITES, storage={"flush_interval_s": 0.3}) as process:
        for wave in range(WAVES):
            sent = [(f"s-{next(ids)}", *MIX[n % len(MIX)]) for n in range(EVENTS // WAVES)]
            requests = [wire.request(site, body(session_id=id, **changes)) for id, site, changes, _, _ in sent]
            for (id, site, _, status, reason), reply in zip(
                sent, asyncio.run(wire.send_all(process.url, requests)), strict=True
            ):
                outcomes[site, reply.reason or "stored"] += 1
                if (status, reason) != (reply.status, reply.reason):
                    unexpected.append((site, reply.status, reply.reason))
                if reply.status == 201:
                    acknowledged.setdefault(site, []).append(id)
            if wave < WAVES - 1:  # SIGTERM publishes the last wave
                process.published()
        scrape = process.metrics()
        yield Load(outcomes, unexpected, acknowledged, scrape, process, process.stop())


def test_every_client_got_the_expected_response(load: Load) -> None:
    assert [] == load.unexpected
    assert EVENTS == load.outcomes.total()


@pytest.mark.parametrize("site", [*SITES, "(unknown)"])
def test_received_is_stored_plus_dropped_and_matches_what_clients_counted(load: Load, site: str) -> None:
    counted = load.outcomes_of("nosuch" if site == "(unknown)" else site)
    stored = load.scrape.value("collector_stored_events_total", site=site)
    dropped = load.scrape.by("reason", "collector_dropped_events_total", site=site)
    assert counted == ({"stored": int(stored)} if stored else {}) | dropped
    assert load.scrape.value("collector_received_events_total", site=site) == stored + sum(dropped.values())
    assert sum(counted.values()) > 0


def test_metrics_name_only_configured_sites(load: Load) -> None:
    assert {*SITES, "(unknown)"} == load.scrape.by("site", "collector_received_events_total").keys()


def test_each_acknowledged_event_is_a_row_exactly_once(load: Load) -> None:
    assert {"shop", "blog", "007"} == load.acknowledged.keys()
    for site, ids in load.acknowledged.items():
        assert sorted(ids) == sorted(row["session_id"] for row in load.process.rows(site)), site


def test_dataset_holds_only_acknowledged_events(load: Load) -> None:
    everything = read_rows(load.process.data_dir / "events")
    assert {site: len(ids) for site, ids in load.acknowledged.items()} == Counter(row["site_id"] for row in everything)


def test_every_flush_adds_a_part_to_each_site(load: Load) -> None:
    for site in load.acknowledged:
        segments = {path.stem for path in (load.process.data_dir / "events" / f"site={site}").rglob("*.parquet")}
        assert WAVES <= len(segments), site


def test_rejected_holds_only_events_that_break_the_contract(load: Load) -> None:
    """A thousand are kept per site and minute, and the load may span two minutes."""
    rejected = load.process.data_dir / "rejected"
    assert {"site=shop", "site=strict"} == {folder.name for folder in rejected.iterdir()}
    for site in ("shop", "strict"):
        rows = read_rows(rejected / f"site={site}")
        assert 1_000 <= len(rows) <= 2_000
        assert all(row["message"].startswith("Validation error: ") for row in rows)


def test_sigterm_publishes_the_remaining_events_and_exits_0(load: Load) -> None:
    assert load.exit_code == 0
    assert "every acknowledged event is in a part" in load.process.log()
    assert [] == [path for path in (load.process.data_dir / "staging").rglob("*") if path.is_file()]


def test_nothing_is_logged_per_event(load: Load) -> None:
    """30,000 events of every kind cause no warning and no traceback. Only flushes have a line each."""
    lines = load.process.log().splitlines()
    assert [] == [line for line in lines if " INFO " not in line]
    assert len([line for line in lines if " published " not in line]) < 10
    assert len(lines) < EVENTS / 100


@dataclass(slots=True)
class Client:
    """Sends event after event on one connection until it closes."""

    name: str
    acknowledged: list[str] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    unanswered: str | None = None
    was_told_to_close: bool = False

    async def send(self, url: str) -> None:
        reader, writer = await wire.connect(url)
        try:
            for n in itertools.count():
                id = f"{self.name}-{n}"
                try:
                    writer.write(wire.request("demo", body(session_id=id)))
                    reply = await wire.read_reply(reader)
                except (ConnectionError, asyncio.IncompleteReadError):
                    self.unanswered = id
                    return
                if reply.status == 201:
                    self.acknowledged.append(id)
                else:
                    self.others.append(reply.status)
                if reply.headers.get("connection") == "close":
                    self.was_told_to_close = True
                    return
        finally:
            writer.close()


async def test_sigterm_under_load_loses_no_acknowledged_event(tmp_path: Path) -> None:
    """Sixteen clients never pause. They get `Connection: close`, but a connection may be cut if its client is slow."""
    clients = [Client(f"c{n}") for n in range(16)]
    with serving(tmp_path, storage={"flush_interval_s": 0.2}) as process:
        sending = [asyncio.create_task(client.send(process.url)) for client in clients]
        await asyncio.to_thread(
            wait_until, lambda: sum(len(client.acknowledged) for client in clients) > 2_000, "the clients are busy"
        )
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await asyncio.gather(*sending)
            assert await process.exited() == 0
        rows = [row["session_id"] for row in process.rows()]
    acknowledged = {id for client in clients for id in client.acknowledged}
    assert [] == [status for client in clients for status in client.others]
    assert len(rows) == len(set(rows))
    assert set() == acknowledged - set(rows)
    assert {client.unanswered for client in clients} >= set(rows) - acknowledged
    assert sum(client.was_told_to_close for client in clients) > len(clients) / 2


@contextmanager
def half_sent(process: Process, data: bytes) -> Iterator[socket.socket]:
    """A request in flight, of which the head and half the body are sent."""
    host, port = process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        connection.sendall(wire.head("demo", len(data)) + data[: len(data) // 2])
        wait_until(lambda: process.metrics().value("collector_requests_in_flight") == 1, "the request is in flight")
        yield connection


def test_scrapes_run_at_lower_priority_than_the_event_loop(tmp_path: Path) -> None:
    """The thread that renders them has low priority. (So does the flush thread, but here is nothing to flush.)"""
    with serving(tmp_path) as process:
        process.metrics()
        loop = os.getpriority(os.PRIO_PROCESS, process.popen.pid)
        priorities = set()
        for task in Path(f"/proc/{process.popen.pid}/task").iterdir():
            with suppress(ProcessLookupError):  # the thread has just ended
                priorities.add(os.getpriority(os.PRIO_PROCESS, int(task.name)))
        assert loop + LOW_PRIORITY in priorities


def test_request_in_flight_at_sigterm_is_stored_and_its_connection_closed(tmp_path: Path) -> None:
    data = body(session_id="late")
    with serving(tmp_path) as process, half_sent(process, data) as connection:
        process.send_signal(signal.SIGTERM)
        process.logged("draining: 1 request in flight")
        connection.sendall(data[len(data) // 2 :])
        with HTTPResponse(connection) as response:
            response.begin()
            assert (201, "close") == (response.status, response.getheader("Connection"))
        assert process.exit_code() == 0
        assert ["late"] == [row["session_id"] for row in process.rows()]


def test_no_new_connection_is_accepted_while_draining(tmp_path: Path) -> None:
    data = body()
    with serving(tmp_path) as process, half_sent(process, data) as connection:
        process.send_signal(signal.SIGTERM)
        process.logged("draining")
        with pytest.raises(ConnectionError):
            process.post()
        connection.sendall(data[len(data) // 2 :])
        assert process.exit_code() == 0


def test_body_that_never_arrives_delays_the_stop_no_longer_than_configured(tmp_path: Path) -> None:
    """Events acknowledged before are published. A collector that waited twice as long would miss the deadline here."""
    with serving(tmp_path, server={"shutdown_timeout_s": 6, "body_timeout_s": 60}) as process:
        assert process.post(event(session_id="before")).status == 201
        with half_sent(process, body()):
            process.send_signal(signal.SIGTERM)
            assert process.exit_code(within_s=11) == 0
        assert ["before"] == [row["session_id"] for row in process.rows()]


def test_idle_connections_do_not_delay_the_stop(tmp_path: Path) -> None:
    """A collector that waited for them would miss the deadline of `stop`."""
    with serving(tmp_path, server={"shutdown_timeout_s": 3600}) as process:
        host, port = process.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as used:
            used.sendall(wire.request("demo", body()))
            assert used.recv(12) == b"HTTP/1.1 201"
            assert process.stop() == 0
        assert len(process.rows()) == 1


def test_sigint_stops_as_sigterm_does(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        assert process.post().status == 201
        process.send_signal(signal.SIGINT)
        assert process.exit_code() == 0
        assert len(process.rows()) == 1
        assert "Traceback" not in process.log()


def test_stop_before_it_serves_exits_0(tmp_path: Path) -> None:
    """It is still reading its configuration from a pipe that the test holds open."""
    pipe = tmp_path / "collector.toml"
    os.mkfifo(pipe)
    popen = subprocess.Popen([*COMMAND, "serve", "--config", str(pipe)], cwd=tmp_path, env=environment())
    try:
        with pipe.open("wb"):  # waits for its reader
            popen.send_signal(signal.SIGTERM)
            assert 0 == popen.wait(STOP_S)
    finally:
        popen.kill()
        popen.wait()


def test_reload_changes_sites_and_limits_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, {"demo": {}, "old": {}}) as process:
        assert [201, 404] == [process.post(site=site).status for site in ("old", "new")]
        configure(tmp_path, {"demo": {}, "new": {}, "once": {}}, rate_limit={"requests_per_minute": 1, "burst": 2})
        process.send_signal(signal.SIGHUP)
        process.logged("reloaded: 3 sites")
        assert [404, 201, 201, 429] == [process.post(site=site).status for site in ("old", "new", "new", "new")]
        assert process.metrics().value("collector_reloads_total", outcome="done") == 1
        assert process.stop() == 0
        # Events of a site that was removed since are still published.
        assert [1, 2] == [len(process.rows(site)) for site in ("old", "new")]


BAD_FILES: tuple[tuple[str | None, str], ...] = (
    ("[sites.demo]\ntracking = 'no'", "sites.demo.tracking: should be a boolean"),
    ("[sites.other]\n[storage]\nflush_intervall_s = 5", "did you mean flush_interval_s?"),
    ("[sites.other", "is not TOML"),
    ("", "at least one site is needed"),
    (None, "cannot be read"),
)


def test_reload_of_an_invalid_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        file = tmp_path / "collector.toml"
        for count, (text, error) in enumerate(BAD_FILES, 1):
            file.unlink()
            if text is not None:
                file.write_text(text)
            process.send_signal(signal.SIGHUP)
            process.logged(error)
            lines = [line for line in process.log().splitlines() if "reload: nothing changed: " in line]
            assert (count, True) == (len(lines), error in lines[-1])
            assert [201, 404] == [process.post(site=site).status for site in ("demo", "other")]
            file.touch()
        assert process.metrics().value("collector_reloads_total", outcome="failed") == len(BAD_FILES)
        assert process.stop() == 0
        assert len(process.rows()) == len(BAD_FILES)


def test_reload_names_settings_that_need_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        configure(tmp_path, storage={"flush_interval_s": 5})
        process.send_signal(signal.SIGHUP)
        process.logged("reloaded: 1 site")
        assert "storage.flush_interval_s takes effect only after a restart" in process.log()
        assert process.post().status == 201
