"""A disk that fills up under load and is emptied again: a small tmpfs, filled with unrelated data."""

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
    """A data_dir on a separate file system, limited to SIZE and INODES."""
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
    """Keep the disk full except for `leave_bytes` until the block ends, taking freed space at once."""
    stop = threading.Event()
    ballast = data_dir / "ballast"

    def take() -> None:
        with ballast.open("wb") as file:
            while not stop.is_set():
                disk = os.statvfs(data_dir)
                spare = disk.f_bavail * disk.f_frsize - leave_bytes
                with suppress(OSError):  # the collector took the space first
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
    """Create files until no inode is left, and keep it so until the block ends."""
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


def refused_while(process: Process, ledger: Ledger, reason: str) -> None:
    """Wait until /readyz reports that reason and events are refused."""
    refusals = len(ledger.refused) + times(10, 200)
    wait_until(lambda: reason in process.ask("/readyz")[1], f"not ready: {reason}")
    wait_until(lambda: len(ledger.refused) > refusals, "events are refused")
    assert (200, "alive\n") == process.ask("/healthz")


def stored_again(process: Process, ledger: Ledger) -> None:
    """Wait until events are stored again, without a restart."""
    wait_until(lambda: process.ask("/readyz") == (200, "ready\n"), "events are accepted again")
    acked = len(ledger.acked) + times(20, 1_000)
    wait_until(lambda: len(ledger.acked) > acked, "events are stored")


def problem_in(data_dir: Path, ledger: Ledger) -> str | None:
    """The verdict; also no refused event is stored, and every response is a 201 or a 503."""
    others = ledger.statuses.keys() - {201, 503}
    return f"responses: {dict(ledger.statuses)}" if others else verdict(data_dir, ledger) or came_back(data_dir, ledger)


@pytest.mark.parametrize(
    ("min_free_bytes", "leave_bytes", "reason"),
    [(0, 0, "not ready"), (8 * MIB, 4 * MIB, "disk space is low"), (8 * MIB, 0, "disk space is low")][: times(1, 3)],
    ids=["until nothing is left", "until little is left", "from little to nothing"][: times(1, 3)],
)
def test_full_disk_refuses_and_service_resumes(
    tmp_path: Path, data_dir: Path, min_free_bytes: int, leave_bytes: int, reason: str
) -> None:
    """Nothing acknowledged is lost, cycle after cycle."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=STORAGE | {"min_free_bytes": min_free_bytes}) as process:
        with load(process.url, ledger, connections=2):
            for _ in range(times(1, 5)):
                stored_again(process, ledger)
                with filled(data_dir, leave_bytes):
                    refused_while(process, ledger, reason)
            stored_again(process, ledger)
        assert process.stop() == 0, process.log()
        assert "Traceback" not in process.log()
    print(f"\nresponses: {dict(ledger.statuses)}; {process.log().count('flush failed')} flushes failed")
    assert problem_in(data_dir, ledger) is None


def test_start_on_a_full_disk_after_a_kill_loses_nothing(tmp_path: Path, data_dir: Path) -> None:
    """The new process refuses events until there is space, then publishes what the killed one left."""
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
    """There is no space for their part, and no incomplete part is left."""
    ledger, storage = Ledger(), {"flush_interval_s": 3600, "segment_max_bytes": 16 * MIB}
    with victim_serving(tmp_path, storage=storage, server={"shutdown_timeout_s": 1}) as process:
        with load(process.url, ledger, connections=2):
            stored_again(process, ledger)
        with filled(data_dir, 0):
            assert process.stop() == 0, process.log()
            assert "flush failed" in process.log()
            assert "1 segment left in the journal for the next start" in process.log()
            assert ([], []) == (process.parts(), list((data_dir / "staging").rglob("*.parquet")))
    recover(tmp_path)
    assert problem_in(data_dir, ledger) is None


def test_out_of_inodes_refuses_and_service_resumes(tmp_path: Path, data_dir: Path) -> None:
    """There is free space, but no inode for a new file."""
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


def test_expire_works_without_a_free_inode(tmp_path: Path, data_dir: Path) -> None:
    """`collector expire` creates no file or folder: the first start has created what it needs."""
    old = data_dir / "events" / "site=a" / "date=2020-01-01" / "1.parquet"
    with victim_serving(tmp_path, storage=STORAGE) as process:
        old.parent.mkdir(parents=True)
        old.write_bytes(b"PAR1")
        with no_inodes(data_dir):
            wait_until(lambda: "out of inodes" in process.ask("/readyz")[1], "no inode is left")
            done = run("expire", "--older-than", "400d", "--config", tmp_path / "collector.toml", folder=tmp_path)
            assert (0, "deleted 1 part\n", "") == (done.returncode, done.stdout, done.stderr)
            assert not old.exists()
