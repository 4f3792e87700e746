"""Publishing on a local file system."""

import os
import shutil
from pathlib import Path

import pytest

from collector.publish import local
from collector.publish.local import Folders, make_folder


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    path = tmp_path / "staging" / "part"
    path.parent.mkdir()
    path.write_bytes(b"new")
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records, in order, what is linked, unlinked and synced."""
    seen: list[str] = []
    link, unlink, fsync = os.link, os.unlink, os.fsync

    def spy_link(source: Path, target: Path) -> None:
        link(source, target)
        seen.append(f"link {Path(target).name}")

    def spy_unlink(path: Path) -> None:
        unlink(path)
        seen.append(f"unlink {Path(path).name}")

    def spy_fsync(descriptor: int) -> None:
        fsync(descriptor)
        seen.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")

    monkeypatch.setattr(os, "link", spy_link)
    monkeypatch.setattr(os, "unlink", spy_unlink)
    monkeypatch.setattr(os, "fsync", spy_fsync)
    return seen


def test_published_file_has_one_name_and_every_new_folder_is_synced(
    tmp_path: Path, staged: Path, calls: list[str]
) -> None:
    """Without these syncs of folders, a power cut can remove the name of a file whose bytes are on disk."""
    final = tmp_path / "events" / "site=a" / "date=2026-05-12" / "x.parquet"
    assert Folders(tmp_path).publish(staged, final)
    assert (b"new", False, 1) == (final.read_bytes(), staged.exists(), final.stat().st_nlink)
    expected = [
        f"fsync {tmp_path.name}",
        "fsync events",
        "fsync site=a",
        "link x.parquet",
        "fsync date=2026-05-12",
        "unlink part",
    ]
    assert expected == calls


def test_taken_name_is_never_overwritten(tmp_path: Path, staged: Path) -> None:
    final = tmp_path / "x.parquet"
    final.write_bytes(b"old")
    assert not Folders(tmp_path).publish(staged, final)
    assert (b"old", b"new") == (final.read_bytes(), staged.read_bytes())


def test_failed_folder_sync_is_raised_and_keeps_the_staged_file(
    tmp_path: Path, staged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(local, "fsync_folder", fail)
    with pytest.raises(OSError, match="Input/output"):
        Folders(tmp_path).publish(staged, tmp_path / "x.parquet")
    assert staged.exists()


def test_make_folder_accepts_existing_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_existing_folder_is_synced_once_by_each_process(tmp_path: Path, calls: list[str]) -> None:
    """The process that made it may have been killed before its sync."""
    folder = tmp_path / "events" / "site=a"
    folder.mkdir(parents=True)
    folders = Folders(tmp_path)
    for _ in range(2):
        folders.make(folder)
    assert [f"fsync {tmp_path.name}", "fsync events"] == calls


def test_siblings_are_made_with_one_sync_of_their_parent(tmp_path: Path, calls: list[str]) -> None:
    """Else 10,000 new sites would sync one folder 10,000 times. A site that cannot be made is left to `make`."""
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "site=b").touch()
    sites = [tmp_path / "events" / f"site={name}" for name in "abc"]
    folders = Folders(tmp_path)
    folders.make_siblings(sites)
    for site in (sites[0], sites[2]):
        folders.make(site / "day")
    assert [f"fsync {tmp_path.name}", "fsync events", "fsync site=a", "fsync site=c"] == calls
    with pytest.raises(FileExistsError):
        folders.make(sites[1])


def test_siblings_whose_parent_could_not_be_synced_do_not_count_as_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    folders, sites = Folders(tmp_path), [tmp_path / name for name in "ab"]
    with monkeypatch.context() as patch:
        patch.setattr(local, "sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            folders.make_siblings(sites)
    folders.make(sites[0])
    assert [f"fsync {tmp_path.name}"] == calls


def test_siblings_in_a_deleted_folder_are_left_to_make(tmp_path: Path) -> None:
    folders, parent = Folders(tmp_path), tmp_path / "events"
    folders.make(parent)
    parent.rmdir()
    folders.make_siblings([parent / "a", parent / "b"])
    folders.make(parent / "a")
    assert (parent / "a").is_dir()


@pytest.mark.parametrize("removed", ["date=2026-05-12", "."], ids=["the day", "the whole site"])
def test_deleted_folder_is_made_again(tmp_path: Path, removed: str) -> None:
    folders, site = Folders(tmp_path), tmp_path / "events" / "site=a"
    for number in range(2):
        staged = tmp_path / "staged"
        staged.touch()
        assert folders.publish(staged, site / "date=2026-05-12" / str(number))
        shutil.rmtree(site / removed)
    staged.touch()
    assert folders.publish(staged, site / "date=2026-05-13" / "2")
    assert (site / "date=2026-05-13" / "2").exists()


@pytest.mark.parametrize(("others", "is_synced_again"), [(2, False), (3, True)])
def test_memory_of_known_folders_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str], others: int, is_synced_again: bool
) -> None:
    """A folder that is forgotten is synced again."""
    monkeypatch.setattr(local, "MAX_KNOWN", 3)
    folders = Folders(tmp_path)
    for name in ("first", *map(str, range(others))):
        folders.make(tmp_path / name)
    calls.clear()
    folders.make(tmp_path / "first")
    assert [f"fsync {tmp_path.name}"] * is_synced_again == calls
