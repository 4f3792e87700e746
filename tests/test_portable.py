"""System calls that differ outside Linux. tests/system/test_elsewhere.py runs the collector without Linux's calls."""

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
    """The names of the sync calls made, in order."""
    called: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: called.append("fsync"))
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: called.append("fdatasync"))
    return called


@pytest.fixture
def full_sync(monkeypatch: pytest.MonkeyPatch, synced: list[str]) -> Callable[[int], None]:
    """Simulate macOS. The argument is the errno with which `F_FULLFSYNC` fails; 0: it succeeds."""

    def ends_with(code: int) -> None:
        def call(descriptor: int, command: int) -> None:
            synced.append("F_FULLFSYNC")
            if code:
                raise OSError(code, os.strerror(code))

        monkeypatch.delattr(os, "fdatasync")
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", call)

    return ends_with


def test_linux_syncs_with_fsync_and_fdatasync(synced: list[str]) -> None:
    portable.sync(3)
    portable.sync_data(3)
    assert ["fsync", "fdatasync"] == synced


@pytest.mark.parametrize("sync", [portable.sync, portable.sync_data])
def test_macos_syncs_with_full_sync_only(
    sync: Callable[[int], None], full_sync: Callable[[int], None], synced: list[str]
) -> None:
    full_sync(0)
    sync(3)
    assert ["F_FULLFSYNC"] == synced


def test_file_system_without_full_sync_falls_back_to_fsync(full_sync: Callable[[int], None], synced: list[str]) -> None:
    full_sync(ENOTSUP)
    portable.sync(3)
    assert ["F_FULLFSYNC", "fsync"] == synced


def test_failed_full_sync_is_not_followed_by_fsync(full_sync: Callable[[int], None], synced: list[str]) -> None:
    """The next sync may succeed although the bytes are lost, and hide the failure."""
    full_sync(EIO)
    with pytest.raises(OSError, match="Input/output error"):
        portable.sync(3)
    assert ["F_FULLFSYNC"] == synced


@pytest.mark.parametrize("has_preadv", [True, False])
def test_read_at_reads_up_to_the_end_of_the_file(
    tmp_path: Path, has_preadv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_preadv:
        monkeypatch.delattr(os, "preadv")
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        into = bytearray(6)
        assert 6 == portable.read_at(file.fileno(), memoryview(into), 2)
        assert b"234567" == into
        assert 2 == portable.read_at(file.fileno(), memoryview(into), 8)
        assert b"894567" == into
        assert 0 == portable.read_at(file.fileno(), memoryview(into), 10)


def test_descriptor_limit_that_the_system_refuses_stays_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS reports no hard limit and refuses more than 10,240."""

    def refuse(which: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert 256 == portable.raise_descriptor_limit(10_512)


def test_thread_priority_stays_unchanged_outside_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the id of a thread may be the id of another process."""
    monkeypatch.setattr(portable, "LINUX", False)
    monkeypatch.setattr(os, "setpriority", lambda *arguments: pytest.fail("a priority was changed"))
    portable.set_thread_priority(5)


def test_shared_memory_without_memfd_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(portable.Unsupported, match="several workers need Linux"):
        portable.shared_memory("table", 4_096)
