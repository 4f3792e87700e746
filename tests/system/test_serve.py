"""The whole life of the real process: what it promises under load, on a failing disk, and when it is told to stop."""

import asyncio
import itertools
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support import body, event, read_rows
from tests.system import wire
from tests.system.process import Process, Scrape, configure, run, serving, wait_until

WAVES = 3
EVENTS = 30_000
SMALL_SEGMENT = 65_536  # the least that the configuration takes
BULK = {"page_referrer": "x" * 1_000}  # 50 such events, or a few less, fill it

# (site, what is sent, status, reason): what a client of that site sends, in turn
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
    """What clients sent and saw, and what the collector said and left."""

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
    """30,000 events of every kind in three waves, each with a flush behind it, then SIGTERM."""
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
            if wave < WAVES - 1:  # what the last wave leaves is for SIGTERM to publish
                process.published()
        scrape = process.metrics()
        yield Load(outcomes, unexpected, acknowledged, scrape, process, process.stop())


def test_every_client_got_the_answer_of_its_kind(load: Load) -> None:
    assert [] == load.unexpected
    assert EVENTS == load.outcomes.total()


@pytest.mark.parametrize("site", [*SITES, "(unknown)"])
def test_received_is_stored_plus_dropped_and_what_clients_counted(load: Load, site: str) -> None:
    counted = load.outcomes_of("nosuch" if site == "(unknown)" else site)
    stored = load.scrape.value("collector_stored_events_total", site=site)
    dropped = load.scrape.by("reason", "collector_dropped_events_total", site=site)
    assert counted == ({"stored": int(stored)} if stored else {}) | dropped
    assert load.scrape.value("collector_received_events_total", site=site) == stored + sum(dropped.values())
    assert sum(counted.values()) > 0


def test_metrics_name_no_site_that_is_not_configured(load: Load) -> None:
    assert {*SITES, "(unknown)"} == load.scrape.by("site", "collector_received_events_total").keys()


def test_each_acknowledged_event_is_a_row_exactly_once(load: Load) -> None:
    assert {"shop", "blog", "007"} == load.acknowledged.keys()
    for site, ids in load.acknowledged.items():
        assert sorted(ids) == sorted(row["session_id"] for row in load.process.rows(site)), site


def test_nothing_but_acknowledged_events_is_in_the_dataset(load: Load) -> None:
    everything = read_rows(load.process.data_dir / "events")
    assert {site: len(ids) for site, ids in load.acknowledged.items()} == Counter(row["site_id"] for row in everything)


def test_every_flush_adds_a_part_to_each_site(load: Load) -> None:
    for site in load.acknowledged:
        segments = {path.stem for path in (load.process.data_dir / "events" / f"site={site}").rglob("*.parquet")}
        assert WAVES <= len(segments), site


def test_rejected_holds_what_broke_the_contract_and_only_that(load: Load) -> None:
    """A thousand a site and minute are kept; the load may span two minutes."""
    rejected = load.process.data_dir / "rejected"
    assert {"site=shop", "site=strict"} == {folder.name for folder in rejected.iterdir()}
    for site in ("shop", "strict"):
        rows = read_rows(rejected / f"site={site}")
        assert 1_000 <= len(rows) <= 2_000
        assert all(row["message"].startswith("Validation error: ") for row in rows)


def test_sigterm_publishes_what_is_left_and_exits_0(load: Load) -> None:
    assert load.exit_code == 0
    assert "every acknowledged event is in a part" in load.process.log()
    assert [] == [path for path in (load.process.data_dir / "staging").rglob("*") if path.is_file()]


def test_nothing_is_logged_per_event(load: Load) -> None:
    """Nor a warning, nor a traceback: 30,000 events of every kind are business as usual."""
    assert [] == [line for line in load.process.log().splitlines() if " INFO " not in line]
    assert len(load.process.log().splitlines()) < 20


@dataclass(slots=True)
class Client:
    """One connection that sends event after event until it is closed."""

    name: str
    acknowledged: list[str] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    unanswered: str | None = None
    told: bool = False

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
                    self.told = True
                    return
        finally:
            writer.close()


async def test_sigterm_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Sixteen clients never pause. They are told `Connection: close`; one that slept too long may be cut instead."""
    clients = [Client(f"c{n}") for n in range(16)]
    with serving(tmp_path, storage={"flush_interval_s": 0.2}) as process:
        sending = [asyncio.create_task(client.send(process.url)) for client in clients]
        await asyncio.to_thread(
            wait_until, lambda: sum(len(client.acknowledged) for client in clients) > 2_000, "they are busy"
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
    assert sum(client.told for client in clients) > len(clients) / 2


@contextmanager
def half_sent(process: Process, data: bytes) -> Iterator[socket.socket]:
    """A request under way: its head and half its body are there."""
    host, port = process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=15) as connection:
        connection.sendall(wire.head("demo", len(data)) + data[: len(data) // 2])
        wait_until(lambda: process.metrics().value("collector_requests_under_way") == 1, "the request is under way")
        yield connection


def test_request_under_way_at_sigterm_is_stored_and_its_connection_closed(tmp_path: Path) -> None:
    data = body(session_id="late")
    with serving(tmp_path) as process, half_sent(process, data) as connection:
        process.send_signal(signal.SIGTERM)
        process.logged("draining: 1 requests under way")
        connection.sendall(data[len(data) // 2 :])
        with HTTPResponse(connection) as response:
            response.begin()
            assert (201, "close") == (response.status, response.getheader("Connection"))
        assert process.exit_code() == 0
        assert ["late"] == [row["session_id"] for row in process.rows()]


def test_no_new_connection_is_taken_while_draining(tmp_path: Path) -> None:
    data = body()
    with serving(tmp_path) as process, half_sent(process, data) as connection:
        process.send_signal(signal.SIGTERM)
        process.logged("draining")
        with pytest.raises(ConnectionError):
            process.post()
        connection.sendall(data[len(data) // 2 :])
        assert process.exit_code() == 0


def test_body_that_never_comes_holds_the_stop_no_longer_than_it_may(tmp_path: Path) -> None:
    """What was acknowledged before is published all the same."""
    with serving(tmp_path, server={"shutdown_timeout_s": 2, "body_timeout_s": 60}) as process:
        assert process.post(event(session_id="before")).status == 201
        with half_sent(process, body()):
            started = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - started < 3.5
        assert ["before"] == [row["session_id"] for row in process.rows()]


def test_idle_connections_do_not_hold_the_stop(tmp_path: Path) -> None:
    with serving(tmp_path, server={"shutdown_timeout_s": 30}) as process:
        host, port = process.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as used:
            used.sendall(wire.request("demo", body()))
            assert used.recv(12) == b"HTTP/1.1 201"
            started = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - started < 5
        assert len(process.rows()) == 1


def test_second_sigterm_exits_at_once(tmp_path: Path) -> None:
    """The first waits for a body that does not come."""
    with serving(tmp_path, server={"shutdown_timeout_s": 60, "body_timeout_s": 60}) as process:
        assert process.post().status == 201
        with half_sent(process, body()):
            process.send_signal(signal.SIGTERM)
            process.logged("draining")
            process.send_signal(signal.SIGTERM)
            assert process.exit_code(within_s=3) == 1
        assert "second signal: exiting at once; 1 events are lost" in process.log()


def test_sigint_stops_as_sigterm_does(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        assert process.post().status == 201
        process.send_signal(signal.SIGINT)
        assert process.exit_code() == 0
        assert len(process.rows()) == 1
        assert "Traceback" not in process.log()


def test_reload_changes_sites_and_limits_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, {"demo": {}, "old": {}}) as process:
        assert [201, 404] == [process.post(site=site).status for site in ("old", "new")]
        configure(tmp_path, {"demo": {}, "new": {}, "once": {}}, rate_limit={"requests_per_minute": 1, "burst": 2})
        process.send_signal(signal.SIGHUP)
        process.logged("reloaded: 3 sites")
        assert [404, 201, 201, 429] == [process.post(site=site).status for site in ("old", "new", "new", "new")]
        assert process.metrics().value("collector_reloads_total", outcome="done") == 1
        assert process.stop() == 0
        # A site since removed drops nothing of what was stored for it.
        assert [1, 2] == [len(process.rows(site)) for site in ("old", "new")]


BAD_FILES: tuple[tuple[str | None, str], ...] = (
    ("[sites.demo]\ntracking = 'no'", "sites.demo.tracking: should be a boolean"),
    ("[sites.other]\n[storage]\nflush_intervall_s = 5", "did you mean flush_interval_s?"),
    ("[sites.other", "is not TOML"),
    ("", "at least one site is needed"),
    (None, "cannot be read"),
)


def test_reload_of_a_bad_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        file = tmp_path / "collector.toml"
        for count, (text, said) in enumerate(BAD_FILES, 1):
            file.unlink()
            if text is not None:
                file.write_text(text)
            process.send_signal(signal.SIGHUP)
            process.logged(said)
            lines = [line for line in process.log().splitlines() if "reload: nothing changed: " in line]
            assert (count, True) == (len(lines), said in lines[-1])
            assert [201, 404] == [process.post(site=site).status for site in ("demo", "other")]
            file.touch()
        assert process.metrics().value("collector_reloads_total", outcome="failed") == len(BAD_FILES)
        assert process.stop() == 0
        assert len(process.rows()) == len(BAD_FILES)


def test_reload_names_what_changes_only_with_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        configure(tmp_path, storage={"flush_interval_s": 5})
        process.send_signal(signal.SIGHUP)
        process.logged("reloaded: 1 sites")
        assert "storage.flush_interval_s changes only with a restart" in process.log()
        assert process.post().status == 201


def test_partition_by_date_puts_all_sites_in_one_part_sorted_by_site(tmp_path: Path) -> None:
    sites: dict[str, dict[str, Any]] = {"b": {}, "a": {}, "c": {}}
    with serving(tmp_path, sites, storage={"partition_by": ["date"]}) as process:
        for site in ("c", "a", "b", "a"):
            assert process.post(site=site).status == 201
        assert process.stop() == 0
        (part,) = process.parts()
        assert ["events", "date=" + part.parent.name[5:]] == [part.parent.parent.name, part.parent.name]
        assert ["a", "a", "b", "c"] == pq.ParquetFile(part).read(["site_id"])["site_id"].to_pylist()


def test_full_segment_is_flushed_before_its_time(tmp_path: Path) -> None:
    with serving(tmp_path, storage={"flush_interval_s": 3600, "segment_max_bytes": SMALL_SEGMENT}) as process:
        requests = [wire.request("demo", body(session_id=f"s-{n}", **BULK)) for n in range(150)]
        assert {201} == {reply.status for reply in asyncio.run(wire.send_all(process.url, requests, 1))}
        wait_until(lambda: len(process.parts()) >= 2, "two segments are published")
        assert process.stop() == 0
        assert sorted(f"s-{n}" for n in range(150)) == sorted(row["session_id"] for row in process.rows())


def test_too_little_free_space_refuses_every_event(tmp_path: Path) -> None:
    with serving(tmp_path, storage={"min_free_bytes": 2**60}) as process:
        answer = process.post()
        assert (503, "unavailable", "5") == (
            answer.status,
            answer.headers["Collect-Reason"],
            answer.headers["Retry-After"],
        )
        assert (503, "not ready: disk space is low\n") == process.ask("/readyz")
        assert (200, "alive\n") == process.ask("/healthz")
        assert process.stop() == 0
        assert [] == process.parts()


def test_leftovers_in_staging_are_swept_at_start(tmp_path: Path) -> None:
    """Whole or torn, they never were acknowledged as parts; the dataset does not get them."""
    staging = tmp_path / "data" / "staging" / "0"
    staging.mkdir(parents=True)
    for name in ("torn.parquet", "other"):
        (staging / name).write_bytes(b"PAR1 torn")
    with serving(tmp_path) as process:
        assert [] == list(staging.iterdir())
        assert process.post().status == 201
        assert process.stop() == 0
        assert len(process.rows()) == len(process.parts()) == 1


def test_second_process_on_the_same_data_dir_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        working = tmp_path / "data" / "staging" / "0" / "being-written.parquet"
        working.write_bytes(b"PAR1")
        second = run("serve", "--config", tmp_path / "collector.toml", folder=tmp_path)
        assert (1, f"collector: data_dir {tmp_path / 'data'}: another collector is using it\n") == (
            second.returncode,
            second.stderr,
        )
        assert working.exists()  # what the first is writing is not the second's to sweep
        assert process.post().status == 201
        assert process.stop() == 0


def test_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    with serving(tmp_path) as first:
        first.send_signal(signal.SIGKILL)
        first.exit_code()
    with serving(tmp_path) as second:
        assert second.post().status == 201


def test_restart_adds_to_the_dataset(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with serving(tmp_path) as process:
            assert process.post(event(session_id=name)).status == 201
            assert process.stop() == 0
    assert ["first", "second"] == [row["session_id"] for row in process.rows()]


@contextmanager
def failing_disk(data_dir: Path) -> Iterator[None]:
    """A plain file stands where the dataset was: no part can be published (permissions would not stop root)."""
    events, aside = data_dir / "events", data_dir / "events.aside"
    events.rename(aside)
    events.touch()
    yield
    events.unlink()
    aside.rename(events)


def test_failing_disk_costs_no_acknowledged_event(tmp_path: Path) -> None:
    """Events are taken until the buffers are full, then refused; once the disk is mended all is as before."""
    storage = {"flush_interval_s": 0.2, "segment_max_bytes": SMALL_SEGMENT, "journal_max_bytes": 2 * SMALL_SEGMENT}
    acknowledged: list[str] = []

    def send(n: int) -> int:
        status = process.post(event(session_id=f"s-{n}", **BULK)).status
        if status == 201:
            acknowledged.append(f"s-{n}")
        return status

    with serving(tmp_path, storage=storage) as process:
        assert send(0) == 201
        process.published()
        with failing_disk(process.data_dir):
            assert send(1) == 201
            process.logged("flush failed; 1 events stay in memory")
            statuses = [send(n) for n in range(2, 200)]
            taken = statuses.count(201)
            assert [201] * taken + [503] * (len(statuses) - taken) == statuses
            assert 30 < taken < 2 * SMALL_SEGMENT / 1_000
            assert (503, "not ready: the buffers are full\n") == process.ask("/readyz")
            scrape = process.metrics()
            assert len(statuses) - taken == scrape.value(
                "collector_dropped_events_total", site="demo", reason="unavailable"
            )
            assert 1 <= scrape.value("collector_flushes_total", outcome="failed") < 10  # tried again, and less and less
        wait_until(lambda: process.ask("/readyz")[0] == 200, "it takes events again")
        assert send(1000) == 201
        process.published()
        assert process.stop() == 0
        assert sorted(acknowledged) == sorted(row["session_id"] for row in process.rows())


def test_sigterm_that_cannot_publish_exits_1_and_counts_the_lost(tmp_path: Path) -> None:
    with serving(tmp_path, server={"shutdown_timeout_s": 1}) as process, failing_disk(process.data_dir):
        assert [201, 201, 201] == [process.post().status for _ in range(3)]
        started = time.monotonic()
        assert process.stop() == 1
        assert time.monotonic() - started < 5
        assert "3 acknowledged events could not be written and are lost" in process.log().splitlines()[-1]
        assert "Traceback" not in process.log()


def test_disk_that_is_mended_while_draining_loses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, server={"shutdown_timeout_s": 30}) as process:
        with failing_disk(process.data_dir):
            assert process.post().status == 201
            process.send_signal(signal.SIGTERM)
            process.logged("flush failed")
        assert process.exit_code() == 0
        assert len(process.rows()) == 1
