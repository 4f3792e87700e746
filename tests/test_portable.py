"""System calls that differ outside Linux. (tests/system/test_elsewhere.py runs a whole collector without Linux's.)"""

import fcntl
import os
import resource
from collections.abc import Callable
from errno import EIO, ENOTSUP
from pathlib import Path

import pytest

from collector import portable


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called to sync a descriptor."""
    called: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: called.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: called.append("fdatasync"))
    return called


@pytest.fixture
def full_sync(monkeypatch: pytest.MonkeyPatch, synced: list[str]) -> Callable[[int], None]:
    """A system with macOS's calls, whose `F_FULLFSYNC` ends with that error, or 0."""

    def ends_with(code: int) -> None:
        def call(descriptor: int, command: int) -> None:
            synced.append("F_FULLFSYNC")
            if code:
                raise OSError(code, os.strerror(code))

        monkeypatch.delattr(os, "fdatasync")
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", call)

    return ends_with


def test_linux_syncs_by_its_own_calls(synced: list[str]) -> None:
    portable.sync(3)
    portable.sync_data(3)
    assert ["fsync", "fdatasync"] == synced


@pytest.mark.parametrize("sync", [portable.sync, portable.sync_data])
def test_drive_is_flushed_where_fsync_does_not(
    sync: Callable[[int], None], full_sync: Callable[[int], None], synced: list[str]
) -> None:
    full_sync(0)
    sync(3)
    assert ["F_FULLFSYNC"] == synced


def test_file_system_that_has_no_full_sync_is_synced_as_well_as_it_can_be(
    full_sync: Callable[[int], None], synced: list[str]
) -> None:
    full_sync(ENOTSUP)
    portable.sync(3)
    assert ["F_FULLFSYNC", "fsync"] == synced


def test_failed_full_sync_is_not_covered_by_another(full_sync: Callable[[int], None], synced: list[str]) -> None:
    """The kernel may call the next sync good although the bytes are lost."""
    full_sync(EIO)
    with pytest.raises(OSError, match="Input/output error"):
        portable.sync(3)
    assert ["F_FULLFSYNC"] == synced


@pytest.mark.parametrize("there_is_preadv", [True, False])
def test_read_at_fills_what_there_is(tmp_path: Path, there_is_preadv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not there_is_preadv:
        monkeypatch.delattr(os, "preadv")
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        into = bytearray(6)
        assert 6 == portable.read_at(file.fileno(), memoryview(into), 2)
        assert b"234567" == into
        assert 2 == portable.read_at(file.fileno(), memoryview(into), 8)
        assert b"894567" == into
        assert 0 == portable.read_at(file.fileno(), memoryview(into), 10)


def test_limit_of_descriptors_that_the_system_does_not_give_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS says that there is none, and refuses more than 10,240."""

    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert 256 == portable.raise_descriptor_limit(10_512)


def test_thread_has_no_priority_of_its_own_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the number of a thread may be another process's."""
    monkeypatch.setattr(portable, "LINUX", False)
    monkeypatch.setattr(os, "setpriority", lambda *arguments: pytest.fail("somebody's priority is changed"))
    portable.set_thread_priority(5)


def test_memory_for_several_workers_is_refused_in_words_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(portable.Unsupported, match="several workers need Linux"):
        portable.shared_memory("table", 4_096)
