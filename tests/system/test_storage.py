"""What the real process leaves in data_dir (parts, locks, staging), on a disk that works and on one that fails."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support import body, event
from tests.system import wire
from tests.system.process import configure, run, serving, wait_until

SMALL_SEGMENT = 65_536  # the minimum that the configuration accepts
BULK = {"page_referrer": "x" * 1_000}  # about 50 such events fill a small segment


def test_partition_by_date_puts_all_sites_in_one_part_sorted_by_site(tmp_path: Path) -> None:
    sites: dict[str, dict[str, Any]] = {"b": {}, "a": {}, "c": {}}
    with serving(tmp_path, sites, storage={"partition_by": ["date"]}) as process:
        for site in ("c", "a", "b", "a"):
            assert process.post(site=site).status == 201
        assert process.stop() == 0
        (part,) = process.parts()
        assert ["events", "date=" + part.parent.name[5:]] == [part.parent.parent.name, part.parent.name]
        assert ["a", "a", "b", "c"] == pq.ParquetFile(part).read(["site_id"])["site_id"].to_pylist()


def test_full_segment_is_flushed_before_the_flush_interval(tmp_path: Path) -> None:
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
        assert (503, "unavailable") == process.ask("/healthz", public=True)
        assert process.stop() == 0
        assert [] == process.parts()


def test_files_left_in_staging_are_deleted_at_start(tmp_path: Path) -> None:
    """They were never published, so they do not belong in the dataset, complete or not."""
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
        assert working.exists()  # the second process must not delete what the first is writing
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
    """A plain file replaces the dataset's folder, so no part can be published. (Permissions would not stop root.)"""
    events, aside = data_dir / "events", data_dir / "events.aside"
    events.rename(aside)
    events.touch()
    try:
        yield
    finally:
        events.unlink()
        aside.rename(events)


@pytest.mark.parametrize(
    ("durability", "where", "full"),
    [("memory", "memory", "the buffers are full"), ("write", "the journal", "the journal is full")],
)
def test_failing_disk_loses_no_acknowledged_event(tmp_path: Path, durability: str, where: str, full: str) -> None:
    """Events are accepted up to the limit, then refused, and accepted again once the disk works."""
    storage = {
        "flush_interval_s": 0.2,
        "segment_max_bytes": SMALL_SEGMENT,
        "journal_max_bytes": 2 * SMALL_SEGMENT,
        "durability": durability,
    }
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
            process.logged(f"flush failed; keeping 1 event in {where}")
            statuses = [send(n) for n in range(2, 200)]
            accepted = statuses.count(201)
            assert [201] * accepted + [503] * (len(statuses) - accepted) == statuses
            assert 30 < accepted < 2 * SMALL_SEGMENT / 1_000
            assert (503, f"not ready: {full}\n") == process.ask("/readyz")
            scrape = process.metrics()
            assert len(statuses) - accepted == scrape.value(
                "collector_dropped_events_total", site="demo", reason="unavailable"
            )
            assert 1 <= scrape.value("collector_flushes_total", outcome="failed") < 10  # retried ever less often
        wait_until(lambda: process.ask("/readyz")[0] == 200, "it accepts events again")
        assert send(1000) == 201
        process.published()
        assert process.stop() == 0
        assert sorted(acknowledged) == sorted(row["session_id"] for row in process.rows())


@pytest.mark.parametrize(
    ("durability", "code", "message"),
    [
        ("memory", 1, "lost 3 acknowledged events that could not be written"),
        ("fsync", 0, "1 segment left in the journal for the next start"),
    ],
)
def test_sigterm_that_cannot_publish_logs_what_becomes_of_the_events(
    tmp_path: Path, durability: str, code: int, message: str
) -> None:
    """It gives up within `shutdown_timeout_s`. The next start publishes what is in the journal."""
    storage = {"durability": durability}
    with (
        serving(tmp_path, server={"shutdown_timeout_s": 1}, storage=storage) as process,
        failing_disk(process.data_dir),
    ):
        assert [201, 201, 201] == [process.post().status for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        assert process.exit_code(within_s=12) == code
        assert message in process.log().splitlines()[-1]
        assert "Traceback" not in process.log()
    with serving(tmp_path, storage=storage) as process:
        assert process.stop() == 0
        assert len(process.rows()) == (0 if durability == "memory" else 3)


@pytest.mark.parametrize("section", ["server", "admin"])
def test_start_that_finds_a_port_taken_leaves_no_segment(tmp_path: Path, section: str) -> None:
    """A service manager retries every second, which left 30,000 files in one night."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = configure(tmp_path, **{section: {"port": taken.getsockname()[1]}})
        for _ in range(2):
            done = run("serve", "--config", file, folder=tmp_path)
            assert (1, True) == (done.returncode, f"{section}: cannot listen" in done.stderr)
    assert [] == list((tmp_path / "data").rglob("*.segment"))


def test_disk_repaired_during_the_drain_loses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, server={"shutdown_timeout_s": 30}) as process:
        with failing_disk(process.data_dir):
            assert process.post().status == 201
            process.send_signal(signal.SIGTERM)
            process.logged("flush failed")
        assert process.exit_code() == 0
        assert len(process.rows()) == 1


HANGING_SYNC = """
import sys, time
from collector.cli.main import main
from collector.parts import writer
writer.fsync_file = lambda path: time.sleep(3600)
sys.exit(main(sys.argv[1:]))
"""


def test_stop_gives_up_on_a_disk_that_hangs(tmp_path: Path) -> None:
    """The sync of a part does not return. The next start publishes what was acknowledged."""
    server = {"shutdown_timeout_s": 0.5}
    with serving(tmp_path, command=(sys.executable, "-c", HANGING_SYNC), server=server) as process:
        assert process.post().status == 201
        assert process.stop() == 1
        last = process.log().splitlines()[-1]
        assert last.endswith("the disk does not respond: exiting; acknowledged events are in the journal or in parts")
    with serving(tmp_path) as process:
        assert process.stop() == 0
        assert len(process.rows()) == 1
