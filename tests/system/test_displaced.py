"""A data_dir that is moved, replaced, deleted or unmounted while the collector serves."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.daemon.worker import DISK_CHECK_S
from collector.daemon.workers.supervisor import HEARTBEAT_S
from tests.crash.conftest import need
from tests.crash.disk import mount
from tests.support import event
from tests.system.process import COMMAND, Process, configure, environment, run, serving, wait_until
from tests.system.test_storage import failing_disk

NEVER = {"flush_interval_s": 3600}
OFTEN = {"flush_interval_s": 0.3}
WORKERS = [1, 2]


def post(process: Process, session_id: str) -> int:
    return process.post(event(session_id=session_id)).status


def refuses(process: Process, reason: str) -> None:
    """Wait until events are refused. `/readyz` gives the reason, and clients get 503."""
    expected = f"not ready: data_dir {process.data_dir} {reason}"
    wait_until(lambda: process.ask("/readyz")[1].startswith(expected), "it is not ready")
    assert 503 == process.ask("/readyz")[0]
    answer = process.post()
    assert (503, "unavailable") == (answer.status, answer.headers["Collect-Reason"])


def accepted(process: Process) -> None:
    wait_until(lambda: process.post(event(session_id="again")).status == 201, "events are accepted again")


def moved(data_dir: Path) -> None:
    data_dir.rename(data_dir.with_name("moved"))


def replaced(data_dir: Path) -> None:
    moved(data_dir)
    data_dir.mkdir()


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(("displace", "reason"), [(moved, "is gone"), (replaced, "is another folder")])
def test_events_are_refused_and_nothing_is_created_where_the_data_dir_was(
    tmp_path: Path, displace: Callable[[Path], None], reason: str, workers: int
) -> None:
    """Flushes go on in the folder itself, wherever it is."""
    with serving(tmp_path, server={"workers": workers}, storage=OFTEN) as process:
        assert 201 == post(process, "before")
        displace(process.data_dir)
        refuses(process, reason)
        wait_until(lambda: not process.metrics().value("collector_buffered_events", site="demo"), "it is flushed")
        assert displace is replaced or not process.data_dir.exists()
        assert not list(process.data_dir.glob("*"))
        if displace is replaced:
            process.data_dir.rmdir()
        process.data_dir.with_name("moved").rename(process.data_dir)
        accepted(process)
        assert 0 == process.stop()
    assert {"before", "again"} == {row["session_id"] for row in process.rows()}


@pytest.mark.parametrize("workers", WORKERS)
def test_kill_while_the_data_dir_is_elsewhere_loses_no_acknowledged_event(tmp_path: Path, workers: int) -> None:
    """A second collector that starts on the path touches nothing of the first."""
    with serving(tmp_path, server={"workers": workers}, storage=NEVER) as first:
        assert 201 == post(first, "first")
        moved(first.data_dir)
        refuses(first, "is gone")
        (tmp_path / "again").mkdir()
        settings = NEVER | {"data_dir": first.data_dir}
        with serving(tmp_path / "again", server={"workers": workers}, storage=settings) as second:
            assert 201 == post(second, "second")
            refuses(first, "is another folder")
            first.popen.kill()
            first.exit_code()
            assert 0 == second.stop()
    assert {"second"} == {row["session_id"] for row in first.rows()}
    shutil.rmtree(first.data_dir)
    first.data_dir.with_name("moved").rename(first.data_dir)
    assert 0 == run("recover", "--config", configure(tmp_path), folder=tmp_path).returncode
    assert {"first"} == {row["session_id"] for row in first.rows()}


def test_collector_cannot_start_on_a_moved_data_dir_that_another_still_uses(tmp_path: Path) -> None:
    """The lock belongs to the folder and not to its path."""
    with serving(tmp_path, storage=NEVER) as process:
        moved(process.data_dir)
        (tmp_path / "again").mkdir()
        file = configure(tmp_path / "again", storage={"data_dir": tmp_path / "moved"})
        tried = run("serve", "--config", file, folder=tmp_path)
    assert (1, True) == (tried.returncode, "another collector is using it" in tried.stderr)


@pytest.mark.parametrize("workers", WORKERS)
def test_collector_cannot_start_on_a_data_dir_in_use_whose_lock_file_was_deleted(tmp_path: Path, workers: int) -> None:
    """It would adopt and delete the open segment of the other collector."""
    with serving(tmp_path, server={"workers": workers}, storage=NEVER) as process:
        (process.data_dir / "lock").unlink()
        tried = run("serve", "--config", tmp_path / "collector.toml", folder=tmp_path)
        assert (1, True) == (tried.returncode, "another collector is using it" in tried.stderr)
        tried = run("recover", "--config", tmp_path / "collector.toml", folder=tmp_path)
        assert (1, True) == (tried.returncode, "another collector is using it" in tried.stderr)
        assert 201 == post(process, "kept")
        assert 0 == process.stop()
    assert {"kept"} == {row["session_id"] for row in process.rows()}


def test_replacement_of_a_worker_uses_the_moved_folder_and_refuses_events(tmp_path: Path) -> None:
    with serving(tmp_path, server={"workers": 2}, storage=NEVER) as process:
        moved(process.data_dir)
        refuses(process, "is gone")
        for worker in workers_of(process):
            os.kill(worker, 9)
        wait_until(lambda: process.metrics().value("collector_worker_restarts_total") == 2, "both are replaced")
        wait_until(lambda: process.metrics().value("collector_workers", state="serving") == 2, "they serve")
        refuses(process, "is gone")
        assert not process.data_dir.exists()
        process.data_dir.with_name("moved").rename(process.data_dir)
        accepted(process)
        assert 0 == process.stop()


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("storage", [NEVER, OFTEN], ids=["before a flush", "at a flush"])
def test_events_of_a_deleted_data_dir_are_reported_as_lost(
    tmp_path: Path, storage: dict[str, float], workers: int
) -> None:
    """The folder is not created again. The segment has no name any more, so no later start can find it."""
    server = {"workers": workers, "shutdown_timeout_s": 0.5}
    with serving(tmp_path, server=server, storage=storage) as process:
        assert 201 == post(process, "lost")
        shutil.rmtree(process.data_dir)
        refuses(process, "is gone")
        if storage is OFTEN:
            process.logged("no new segment can be made")
        assert 1 == process.stop()
        assert not process.data_dir.exists()
        assert "lost 1 acknowledged event that could not be written" in process.log()
        assert "Traceback" not in process.log()


@pytest.mark.parametrize("moved", ["journal", "journal/0", "everything"])
def test_events_are_published_from_memory_if_their_segment_is_moved_away(tmp_path: Path, moved: str) -> None:
    """Later events go to a segment that the next start finds."""
    with serving(tmp_path, storage=NEVER) as process:
        assert 201 == post(process, "before")
        aside = tmp_path / "aside"
        aside.mkdir()
        for path in process.data_dir.iterdir() if moved == "everything" else [process.data_dir / moved]:
            path.rename(aside / path.name)
        process.logged("refusing events: the open segment journal/0/")
        process.logged("published 1 event in 1 part in ")
        accepted(process)
        process.popen.kill()
        process.exit_code()
    assert 0 == run("recover", "--config", tmp_path / "collector.toml", folder=tmp_path).returncode
    assert {"before", "again"} == {row["session_id"] for row in process.rows()}


def test_events_stay_in_memory_if_their_flush_fails_and_their_segment_is_gone(tmp_path: Path) -> None:
    with serving(tmp_path, storage=NEVER) as process:
        with failing_disk(process.data_dir):
            assert 201 == post(process, "kept")
            for segment in (process.data_dir / "journal" / "0").glob("*.segment"):
                segment.unlink()
            process.logged("flush failed; keeping 1 event in memory")
        process.published()
        assert 0 == process.stop()
    assert {"kept"} == {row["session_id"] for row in process.rows()}


def test_deleted_segments_are_reported_as_lost_and_block_nothing(tmp_path: Path) -> None:
    """Their events were only on disk, because flushes failed."""
    storage = {"flush_interval_s": 0.2, "segment_max_bytes": 65_536, "journal_max_bytes": 10**6}
    with serving(tmp_path, storage=storage) as process:
        with failing_disk(process.data_dir):
            assert 201 == post(process, "lost")
            process.logged("flush failed; keeping 1 event in the journal")
            for segment in (process.data_dir / "journal" / "0").glob("*.segment"):
                segment.unlink()
        process.logged("this loses 1 event, unless it is put back before the next start")
        process.published()
        accepted(process)
        assert 1 == process.stop()
        assert "lost 1 acknowledged event that could not be written" in process.log()
    assert {"again"} == {row["session_id"] for row in process.rows()}


def test_relative_paths_stay_valid_for_a_reload(tmp_path: Path) -> None:
    """The path of the file and data_dir, although the working directory has changed by then."""
    config_file = configure(tmp_path, storage={"data_dir": "data"})
    with serving(tmp_path, config_argument=config_file.name, storage={"data_dir": "data"}) as process:
        config_file.write_text(config_file.read_text() + "\n[sites.other]\n")
        process.popen.send_signal(1)
        process.logged("reloaded: 2 sites")
        assert 201 == process.post(site="other").status
        assert "takes effect only after a restart" not in process.log()
        assert 0 == process.stop()
    assert ["data"] == [path.name for path in tmp_path.iterdir() if path.is_dir()]


def test_nothing_is_written_to_the_mount_point_of_an_unmounted_volume(tmp_path: Path) -> None:
    need(os.geteuid() == 0, "root, to mount a volume")
    data_dir, volume = tmp_path / "data", tmp_path / "volume"
    for folder in (data_dir, volume):
        folder.mkdir()
    mount("--bind", str(volume), str(data_dir))
    try:
        with serving(tmp_path, storage=OFTEN) as process:
            assert 201 == post(process, "before")
            subprocess.run(["umount", "--lazy", data_dir], check=True)
            refuses(process, "is another folder")
            wait_until(lambda: not process.metrics().value("collector_buffered_events", site="demo"), "it is flushed")
            assert [] == list(data_dir.iterdir())
            mount("--bind", str(volume), str(data_dir))
            accepted(process)
            assert 0 == process.stop()
            assert {"before", "again"} == {row["session_id"] for row in process.rows()}
    finally:
        subprocess.run(["umount", "--lazy", data_dir], check=False, capture_output=True)


CHECK_HANGS = """
import os, sys, threading, time
from collector.daemon import resources
from collector.cli.main import main
really = resources.DataDir.displaced
def displaced(data_dir):
    if os.path.exists("hang"):
        time.sleep(3600)
    return really(data_dir)
resources.DataDir.displaced = displaced
sys.exit(main(sys.argv[1:]))
"""


def test_disk_check_that_never_returns_does_not_block_a_stop(tmp_path: Path) -> None:
    """As on an unreachable network disk. Stored events are published, and the exit does not wait for the check."""
    command = (sys.executable, "-c", CHECK_HANGS)
    with serving(tmp_path, command=command, server={"shutdown_timeout_s": 1}, storage=NEVER) as process:
        assert 201 == post(process, "kept")
        (process.data_dir / "hang").touch()
        process.logged("refusing events: the disk does not respond")
        assert 0 == process.stop()
    assert {"kept"} == {row["session_id"] for row in process.rows()}


@pytest.mark.parametrize(
    ("command", "why"), [("serve", "is relative"), ("doctor", "is relative"), ("recover", "does not exist")]
)
def test_relative_data_dir_in_a_folder_that_is_gone_is_an_error(tmp_path: Path, command: str, why: str) -> None:
    file = configure(tmp_path, storage={"data_dir": "data"})
    (tmp_path / "gone").mkdir()
    script = f'rmdir ../gone && exec "$@" {command} --config {file}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND],
        cwd=tmp_path / "gone",
        env=environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (1, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert done.stderr.startswith(f"collector: data_dir data: {why}")


def test_data_dir_is_checked_often_enough_to_refuse_within_two_seconds() -> None:
    """The worker checks, then the supervisor asks the worker. That leaves half a second for a busy machine."""
    assert DISK_CHECK_S + HEARTBEAT_S <= 1.5


def workers_of(process: Process) -> list[int]:
    """The process ids of a supervisor's workers."""
    text = Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children").read_text()
    return [int(number) for number in text.split()]
