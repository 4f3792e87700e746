"""Expiry: deletes entire days, and nothing else."""

import os
from datetime import date
from errno import ENOSPC
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from collector.lake.expire import expire
from collector.parts.writer import PartWriter
from collector.publish.local import Folders

module: Any = import_module("collector.lake.expire")  # Any: its imports are replaced below

TODAY = date(2026, 5, 28)


def make(data_dir: Path, *names: str) -> list[Path]:
    paths = [data_dir / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"part")
    return paths


def left(data_dir: Path) -> set[str]:
    return {str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file()}


OLD = (
    "events/site=a/date=2026-05-17/1.parquet",
    "events/site=a/date=2026-05-17/2.parquet",
    "events/site=b/date=1999-12-31/3.parquet",
    "events/date=2026-05-17/4.parquet",
    "rejected/site=a/date=2026-05-01/5.parquet",
)
YOUNG = (
    "events/site=a/date=2026-05-18/6.parquet",
    "events/site=a/date=2026-05-28/7.parquet",
    "events/date=2026-06-01/8.parquet",
    "rejected/site=a/date=2026-05-18/9.parquet",
)
FOREIGN = (
    "events/site=a/date=2026-02-31/10.parquet",
    "events/site=a/date=old/11.parquet",
    "events/site=a/12.parquet",
    "events/date=2026-05-17.txt",
    "journal/0/date=2020-01-01/13.parquet",
)


def test_old_days_are_dropped_from_both_datasets_in_both_layouts(tmp_path: Path) -> None:
    make(tmp_path, *OLD, *YOUNG, *FOREIGN)
    assert len(OLD) == expire(tmp_path, TODAY, 10)
    assert {*YOUNG, *FOREIGN} == left(tmp_path)
    assert 0 == expire(tmp_path, TODAY, 10)


def test_reader_with_an_open_part_can_read_on(tmp_path: Path) -> None:
    (path,) = make(tmp_path, OLD[0])
    with path.open("rb") as reader:
        expire(tmp_path, TODAY, 10)
        assert b"part" == reader.read()


def test_folder_that_cannot_be_dropped_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, *OLD)
    rename = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.parent.name == "site=a":
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    counts: list[int] = []
    with pytest.raises(PermissionError, match="site=a"):
        expire(tmp_path, TODAY, 10, count=counts.append)
    assert {OLD[0], OLD[1], OLD[4]} == left(tmp_path)
    assert [1, 1] == counts, "dropped folders are counted all the same"


def test_dropped_day_is_counted_even_if_its_folder_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(5, "Input/output error", str(folder))

    make(tmp_path, *OLD[:2])
    monkeypatch.setattr(module, "fsync_folder", fail)
    counts: list[int] = []
    expire(tmp_path, TODAY, 10, count=counts.append)
    assert [2] == counts


@pytest.mark.parametrize("folder", ["events/site=a", "events"])
def test_unreadable_folder_is_reported_and_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    make(tmp_path, *OLD)
    scandir, closed = os.scandir, tmp_path / folder

    def refuse(path: Path) -> Any:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match=folder):
        expire(tmp_path, TODAY, 10)
    monkeypatch.undo()
    assert {name for name in OLD if name.startswith(folder + "/")} == left(tmp_path)


def test_parent_of_a_dropped_day_is_synced_before_its_parts_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power cut could bring the day back with only some of its parts."""
    (path,) = make(tmp_path, OLD[0])
    seen: list[str] = []
    monkeypatch.setattr(module, "fsync_folder", lambda folder: seen.append(f"synced {folder.name}"))
    monkeypatch.setattr(module.shutil, "rmtree", lambda folder, **keywords: seen.append("deleted"))
    expire(tmp_path, TODAY, 10)
    assert ["synced site=a", "deleted"] == seen
    assert not path.exists()


def test_leftovers_of_a_killed_expiry_are_deleted(tmp_path: Path) -> None:
    make(tmp_path, "staging/expired/0123/1.parquet")
    expire(tmp_path, TODAY, 10)
    assert set() == left(tmp_path)


def test_expiry_works_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is when people drop days by hand. The folders made at the first start are enough, every time."""
    make(tmp_path, *OLD)
    PartWriter(Folders(tmp_path), "0", compression="zstd").prepare()

    def full(path: str, *arguments: object, **keywords: object) -> None:
        raise OSError(ENOSPC, "No space left on device", path)

    monkeypatch.setattr(os, "mkdir", full)
    assert len(OLD) == expire(tmp_path, TODAY, 10)
    assert 0 == expire(tmp_path, TODAY, 10)
    monkeypatch.undo()
    make(tmp_path, OLD[0])
    monkeypatch.setattr(os, "mkdir", full)
    assert 1 == expire(tmp_path, TODAY, 10)
    assert set() == left(tmp_path)
