"""A disk that fills up under load, and is emptied again: a small tmpfs, full of somebody else's data."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.crash.conftest import need, times
from tests.crash.disk import mount
from tests.crash.rounds import Ledger, came_back, load, recover, verdict, victim_serving
from tests.system.process import Process, run, wait_until

MIB = 1 << 20
SIZE = 64 * MIB
STORAGE = {"flush_interval_s": 0.3, "segment_max_bytes": MIB}
INODES = 300


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data_dir that is a file system of its own, of SIZE and INODES."""
    need(os.geteuid() == 0, "root, to mount a tmpfs")
    folder = tmp_path / "data"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={SIZE},nr_inodes={INODES}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


@contextmanager
def filled(data_dir: Path, leave_bytes: int) -> Iterator[None]:
    """Somebody takes all room but this, and what becomes free at once, until the block is left."""
    stop = threading.Event()
    ballast = data_dir / "ballast"

    def take() -> None:
        with ballast.open("wb") as file:
            while not stop.is_set():
                disk = os.statvfs(data_dir)
                spare = disk.f_bavail * disk.f_frsize - leave_bytes
                with suppress(OSError):  # someone else was faster
                    if spare > 0:
                        os.posix_fallocate(file.fileno(), file.tell(), spare)
                        file.seek(spare, os.SEEK_CUR)
                stop.wait(0.002)

    try:
        yield from _taken(take, stop)
    finally:
        ballast.unlink()


@contextmanager
def no_inodes(data_dir: Path) -> Iterator[None]:
    """Somebody makes files until no more can be made."""
    stop = threading.Event()
    made: list[Path] = []

    def take() -> None:
        while not stop.is_set():
            with suppress(OSError):
                while True:
                    path = data_dir / f"ballast-{len(made)}"
                    path.touch()
                    made.append(path)
            stop.wait(0.002)

    try:
        yield from _taken(take, stop)
    finally:
        for path in made:
            path.unlink()


def _taken(take: Any, stop: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def refused_while(process: Process, ledger: Ledger, words: str) -> None:
    """Wait until events are refused for that reason."""
    refusals = len(ledger.refused) + times(10, 200)
    wait_until(lambda: words in process.ask("/readyz")[1], f"not ready: {words}")
    wait_until(lambda: len(ledger.refused) > refusals, "events are refused")
    assert (200, "alive\n") == process.ask("/healthz")


def stored_again(process: Process, ledger: Ledger) -> None:
    """Wait until events are stored, without anybody's help."""
    wait_until(lambda: process.ask("/readyz") == (200, "ready\n"), "it takes events again")
    acked = len(ledger.acked) + times(20, 1_000)
    wait_until(lambda: len(ledger.acked) > acked, "events are stored")


def problem_in(data_dir: Path, ledger: Ledger) -> str | None:
    """The verdict, that no refused event came back, and that nobody got another answer than 201 and 503."""
    others = ledger.statuses.keys() - {201, 503}
    return f"answers: {dict(ledger.statuses)}" if others else verdict(data_dir, ledger) or came_back(data_dir, ledger)


@pytest.mark.parametrize(
    ("min_free_bytes", "leave_bytes", "words"),
    [(0, 0, "not ready"), (8 * MIB, 4 * MIB, "disk space is low"), (8 * MIB, 0, "disk space is low")][: times(1, 3)],
    ids=["until nothing is left", "until little is left", "from little to nothing"][: times(1, 3)],
)
def test_full_disk_refuses_and_service_resumes(
    tmp_path: Path, data_dir: Path, min_free_bytes: int, leave_bytes: int, words: str
) -> None:
    """Nothing acknowledged is lost, cycle after cycle."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=STORAGE | {"min_free_bytes": min_free_bytes}) as process:
        with load(process.url, ledger, connections=2):
            for _ in range(times(1, 5)):
                stored_again(process, ledger)
                with filled(data_dir, leave_bytes):
                    refused_while(process, ledger, words)
            stored_again(process, ledger)
        assert process.stop() == 0, process.log()
        assert "Traceback" not in process.log()
    print(f"\nanswers: {dict(ledger.statuses)}; {process.log().count('flush failed')} flushes failed")
    assert problem_in(data_dir, ledger) is None


def test_kill_on_a_full_disk_and_a_start_on_it(tmp_path: Path, data_dir: Path) -> None:
    """The new process refuses until there is room, then publishes what the old one left."""
    ledger = Ledger()
    for _ in range(times(1, 5)):
        with victim_serving(tmp_path, storage=STORAGE) as process, load(process.url, ledger, connections=2):
            stored_again(process, ledger)
            with filled(data_dir, 0):
                refused_while(process, ledger, "not ready")
                process.popen.kill()
                process.exit_code()
                with victim_serving(tmp_path, storage=STORAGE) as second:
                    with load(second.url, ledger, connections=2):
                        refused_while(second, ledger, "not ready")
                    second.popen.kill()
                    second.exit_code()
    with victim_serving(tmp_path, storage=STORAGE) as process:
        with load(process.url, ledger, connections=2):
            stored_again(process, ledger)
        assert process.stop() == 0, process.log()
    print(f"\nanswers: {dict(ledger.statuses)}")
    assert problem_in(data_dir, ledger) is None


def test_stop_on_a_full_disk_leaves_the_events_to_the_next_start(tmp_path: Path, data_dir: Path) -> None:
    """Their part finds no room, and is not there by half."""
    ledger, storage = Ledger(), {"flush_interval_s": 3600, "segment_max_bytes": 16 * MIB}
    with victim_serving(tmp_path, storage=storage, server={"shutdown_timeout_s": 1}) as process:
        with load(process.url, ledger, connections=2):
            stored_again(process, ledger)
        with filled(data_dir, 0):
            assert process.stop() == 0, process.log()
            assert "flush failed" in process.log()
            assert "1 segments stay in the journal for the next start" in process.log()
            assert ([], []) == (process.parts(), list((data_dir / "staging").rglob("*.parquet")))
    recover(tmp_path)
    assert problem_in(data_dir, ledger) is None


def test_out_of_inodes_refuses_and_service_resumes(tmp_path: Path, data_dir: Path) -> None:
    """There is room, but for no file's name."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=STORAGE | {"flush_interval_s": 1}) as process:
        with load(process.url, ledger, connections=2):
            for _ in range(times(1, 5)):
                stored_again(process, ledger)
                with no_inodes(data_dir):
                    refused_while(process, ledger, "the disk is out of inodes")
            stored_again(process, ledger)
        assert process.stop() == 0, process.log()
        assert "Traceback" not in process.log()
    print(f"\nanswers: {dict(ledger.statuses)}")
    assert problem_in(data_dir, ledger) is None


def test_days_can_be_dropped_where_nothing_can_be_made_any_more(tmp_path: Path, data_dir: Path) -> None:
    """Neither a file nor a folder: what `collector expire` needs is there since the first start."""
    old = data_dir / "events" / "site=a" / "date=2020-01-01" / "1.parquet"
    with victim_serving(tmp_path, storage=STORAGE) as process:
        old.parent.mkdir(parents=True)
        old.write_bytes(b"PAR1")
        with no_inodes(data_dir):
            wait_until(lambda: "out of inodes" in process.ask("/readyz")[1], "it is full")
            done = run("expire", "--older-than", "400d", "--config", tmp_path / "collector.toml", folder=tmp_path)
            assert (0, "deleted 1 part\n", "") == (done.returncode, done.stdout, done.stderr)
            assert not old.exists()
