"""A changed `partition_by` is refused until the events in the old layout are out of the way."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.crash.rounds import kill
from tests.support import read_rows
from tests.system.process import COMMAND, configure, environment, run, serving, wait_until
from tests.system.test_recover import LONG, left_behind, segments

BY_DATE = {"partition_by": ["date"]}


def tree(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.name not in ("collector.toml", "stderr"))


def ids(folder: Path) -> list[str]:
    return sorted(row["session_id"] for row in read_rows(folder))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("first", [["site", "date"], ["date"]], ids="/".join)
def test_serve_refuses_a_layout_that_differs_from_its_parts(tmp_path: Path, workers: int, first: list[str]) -> None:
    """It creates and locks nothing, and starts once the parts are moved aside."""
    second = ["date"] if "site" in first else ["site", "date"]
    with serving(tmp_path, storage={"partition_by": first}) as process:
        assert 201 == process.post().status
        assert 0 == process.stop()
    (tmp_path / "data" / "lock").unlink()
    before = tree(tmp_path)
    configure(tmp_path, storage={"partition_by": second}, server={"port": 0, "workers": workers})
    for arguments in (("serve",), ("check-config", "collector.toml")):
        done = run(*arguments, folder=tmp_path)
        assert (2, "", 1) == (done.returncode, done.stdout, len(done.stderr.splitlines())), done.stderr
        assert "storage.partition_by: is " in done.stderr
        assert "move events/ aside" in done.stderr
    assert before == tree(tmp_path)
    (tmp_path / "data" / "events").rename(tmp_path / "data" / "events-until-now")
    with serving(tmp_path, storage={"partition_by": second}, server={"port": 0, "workers": workers}) as process:
        assert 201 == process.post().status
        assert 0 == process.stop()
        assert 1 == len(process.parts())


@pytest.mark.parametrize("setting", [["site", "date"], ["date"]], ids="/".join)
def test_segments_of_another_layout_must_be_recovered_first(tmp_path: Path, setting: list[str]) -> None:
    """Either setting will do: each segment says how its parts are laid out."""
    sent = left_behind(tmp_path, 5)
    assert 1 == len(segments(tmp_path))
    configure(tmp_path, storage=LONG | BY_DATE)
    done = run("serve", folder=tmp_path)
    assert (2, True) == (done.returncode, "segments in journal/ laid out by" in done.stderr), done.stderr
    assert "run `collector recover` with the old setting" in done.stderr
    configure(tmp_path, storage=LONG | {"partition_by": setting})
    assert 0 == run("recover", folder=tmp_path).returncode
    assert sorted(sent) == ids(tmp_path / "data" / "events" / "site=demo")
    configure(tmp_path, storage=LONG | BY_DATE)
    assert 2 == run("serve", folder=tmp_path).returncode
    (tmp_path / "data" / "events").rename(tmp_path / "data" / "events-until-now")
    with serving(tmp_path, storage=BY_DATE) as process:
        assert 0 == process.stop()


def test_layout_of_a_running_collector_is_that_of_its_open_segment(tmp_path: Path) -> None:
    """`check-config` refuses another layout even before anything is published."""
    with serving(tmp_path, storage=LONG) as process:
        configure(tmp_path, storage=LONG | BY_DATE)
        done = run("check-config", "collector.toml", folder=tmp_path)
        assert (2, True) == (done.returncode, "segments in journal/ laid out by" in done.stderr), done.stderr
        kill(process)


@pytest.mark.parametrize("workers", [1, 2])
def test_layout_is_checked_again_after_the_previous_collector_has_ended(tmp_path: Path, workers: int) -> None:
    """With durability `memory` nothing on disk shows the layout until its last flush, for which the next one waits."""
    (tmp_path / "next").mkdir()
    data_dir = {"data_dir": tmp_path / "data"}
    configure(tmp_path / "next", server={"workers": workers}, storage=BY_DATE | data_dir)
    with serving(tmp_path, storage=LONG | {"durability": "memory"}) as process:
        assert 201 == process.post().status
        following = subprocess.Popen(
            [*COMMAND, "serve"], cwd=tmp_path / "next", env=environment(), stderr=subprocess.PIPE, text=True
        )
        try:
            wait_until(lambda: waits_for_a_lock(following.pid), "the next collector waits for the lock")
            assert 0 == process.stop()
            _, errors = following.communicate(timeout=30)
        finally:
            following.kill()
    assert (2, True) == (following.returncode, "storage.partition_by: is" in errors), errors


def waits_for_a_lock(pid: int) -> bool:
    """Whether the process has opened the lock file."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return any(os.readlink(link).endswith("/data/lock") for link in folder.iterdir())
    except FileNotFoundError:
        return False


def test_folders_emptied_by_expiry_do_not_count_as_a_layout(tmp_path: Path) -> None:
    day = tmp_path / "data" / "events" / "site=demo" / "date=2020-01-01"
    day.mkdir(parents=True)
    (day / "0123456789abcdef.parquet").touch()
    configure(tmp_path)
    assert 0 == run("expire", "--older-than", "30d", folder=tmp_path).returncode
    assert day.parent.exists()
    with serving(tmp_path, storage=BY_DATE) as process:
        assert 201 == process.post().status
        assert 0 == process.stop()
        assert 1 == len(process.parts())
