"""The file of a segment: how it copes with a failing disk, and what can be read back."""

import fcntl
import io
import os
from collections.abc import Callable
from errno import EACCES, EIO, EMFILE, ENOSPC
from pathlib import Path
from typing import Any

import pytest

from collector.journal.record import HEADER_BYTES, Batch, Damage, EncodedBatch, Header, Record, encode_header, scan
from collector.journal.segment import SegmentBroken, SegmentFile, SegmentStore
from collector.publish.local import Folders
from collector.worker_slot import WorkerSlot
from tests.journal.test_record import ID, make_event

REAL_WRITE = os.write


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(Folders(tmp_path), "0", by_site=True, durability="fsync")


@pytest.mark.parametrize(("worker", "adopted"), [(0, {"0", "2", "7", "old"}), (1, {"1"})])
def test_left_over_segments_are_adopted_by_one_worker_each(tmp_path: Path, worker: int, adopted: set[str]) -> None:
    """Two workers adopt their own folders. The first also adopts the folders of workers that no longer exist."""
    for folder in ("0", "1", "2", "7", "old"):
        SegmentStore(Folders(tmp_path), folder, by_site=True, durability="write").create().close()
    slot = WorkerSlot(worker, 2)
    store = SegmentStore(Folders(tmp_path), slot.folder, by_site=True, durability="write", adopts=slot.adopts)
    assert adopted == {segment.path.parent.name for segment in store.left_over() if segment.path}


@pytest.fixture
def syscalls(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace functions of `os`, and restore the others."""

    def replace(**functions: Any) -> None:
        monkeypatch.undo()
        monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)  # a Mac's sync
        for name, ours in functions.items():
            monkeypatch.setattr(os, name, ours, raising=False)

    return replace


def commit(file: SegmentFile, *bodies: bytes) -> None:
    file.commit(file.encode([make_event(body=body) for body in bodies]))


def commit_batch(file: SegmentFile, *bodies: bytes) -> None:
    """Commit an event with the body `before`, and a batch of these, each written by itself."""
    pieces = [file.encode([make_event(body=body)]) for body in bodies]
    file.commit(file.encode([make_event(body=b"before")]), EncodedBatch(b"key", b"answer", len(bodies), pieces))


def bodies(file: SegmentFile) -> list[bytes]:
    """The bodies that a replay would find, and the keys of batches."""
    with file.path.open("rb") as opened:
        opened.seek(HEADER_BYTES)
        return [_told(found) for found in scan(opened, file.id)]


def _told(found: Record | Batch | Damage) -> bytes:
    match found:
        case Record():
            return found.body
        case Batch():
            return found.key
    return b"damage"


def failing(code: int) -> Callable[..., Any]:
    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_committed_events_are_in_the_file(store: SegmentStore) -> None:
    file = store.create()
    commit(file, b"1", b"2")
    commit(file, b"3")
    file.seal()
    assert [b"1", b"2", b"3"] == bodies(file)


def one_byte_then(code: int) -> Callable[[int, memoryview], int]:
    """A disk that writes one byte, and then fails."""
    taken: list[int] = []

    def write(descriptor: int, data: memoryview) -> int:
        if taken:
            raise OSError(code, os.strerror(code))
        taken.append(REAL_WRITE(descriptor, data[:1]))
        return 1

    return write


@pytest.mark.parametrize(
    "write",
    [failing(ENOSPC), one_byte_then(ENOSPC), lambda descriptor, data: 0, lambda descriptor, data: 1],
    ids=["full", "short, then full", "nothing written", "one byte reported, none written"],
)
def test_failed_write_leaves_no_byte_of_its_events(
    store: SegmentStore, syscalls: Callable[..., None], write: Callable[..., int]
) -> None:
    """Otherwise they would be stored twice, once their clients retry."""
    file = store.create()
    commit(file, b"kept")
    size_bytes = file.path.stat().st_size
    syscalls(write=write)
    with pytest.raises(OSError, match=r"No space|short write"):
        commit(file, b"refused")
    assert size_bytes == file.path.stat().st_size
    syscalls()
    commit(file, b"later")
    assert [b"kept", b"later"] == bodies(file)


@pytest.mark.parametrize("call", [0, 1, 2, 3])
def test_failed_write_leaves_no_byte_of_a_batch(store: SegmentStore, syscalls: Callable[..., None], call: int) -> None:
    """Neither of its frame nor of the records that were written before it failed."""
    file, calls = store.create(), 0

    def write(descriptor: int, data: memoryview) -> int:
        nonlocal calls
        calls += 1
        if calls - 1 == call:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        return REAL_WRITE(descriptor, data)

    commit(file, b"kept")
    size_bytes = file.path.stat().st_size
    syscalls(write=write)
    with pytest.raises(OSError, match="No space"):
        commit_batch(file, b"1", b"2", b"3")
    assert (size_bytes, call + 1) == (file.path.stat().st_size, calls)
    syscalls()
    commit_batch(file, b"4", b"5")
    assert [b"kept", b"before", b"key", b"4", b"5"] == bodies(file)


@pytest.mark.parametrize("call", [0, 1])
def test_failed_fsync_of_a_batch_breaks_the_segment_and_cuts_it_off(
    store: SegmentStore, syscalls: Callable[..., None], call: int
) -> None:
    """That of its frame, or that of its records."""
    file, sync, calls = store.create(), os.fdatasync, 0

    def fail_once(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls - 1 == call:
            raise OSError(EIO, os.strerror(EIO))
        sync(descriptor)

    commit(file, b"kept")
    syscalls(fdatasync=fail_once)
    with pytest.raises(SegmentBroken, match="fsync failed"):
        commit_batch(file, b"1", b"2")
    assert [b"kept"] == bodies(file)


def test_cut_is_synced_before_the_error_is_raised(store: SegmentStore, syscalls: Callable[..., None]) -> None:
    """Otherwise a power cut could bring the refused event back, because its bytes may already be on disk."""
    file, made = store.create(), list[str]()

    def note(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            made.append(name)
            return function(*arguments)

        return noted

    syscalls(write=one_byte_then(ENOSPC), ftruncate=note("cut", os.ftruncate), fdatasync=note("synced", os.fdatasync))
    with pytest.raises(OSError, match="No space"):
        commit(file, b"refused")
    assert ["cut", "synced"] == made


def test_short_writes_are_continued_until_all_is_written(store: SegmentStore, syscalls: Callable[..., None]) -> None:
    syscalls(write=lambda descriptor, data: REAL_WRITE(descriptor, data[:5]))
    file = store.create()
    commit(file, b"in pieces of five")
    assert [b"in pieces of five"] == bodies(file)


def test_failed_fsync_breaks_the_segment_and_cuts_off_unacknowledged_events(
    store: SegmentStore, syscalls: Callable[..., None]
) -> None:
    file = store.create()
    commit(file, b"kept")
    syscalls(fdatasync=failing(EIO))
    with pytest.raises(SegmentBroken, match="fsync failed"):
        commit(file, b"refused")
    assert [b"kept"] == bodies(file)
    with pytest.raises(SegmentBroken, match="fsync failed"):
        file.seal()


def test_cut_that_fails_breaks_the_segment(store: SegmentStore, syscalls: Callable[..., None]) -> None:
    file = store.create()
    syscalls(write=failing(ENOSPC), ftruncate=failing(EIO))
    with pytest.raises(SegmentBroken, match="cannot be cut back"):
        commit(file, b"{}")


def test_probe_leaves_no_trace(store: SegmentStore, syscalls: Callable[..., None]) -> None:
    file = store.create()
    commit(file, b"1")
    file.probe()
    commit(file, b"2")
    assert [b"1", b"2"] == bodies(file)
    syscalls(write=failing(ENOSPC))
    with pytest.raises(OSError, match="No space"):
        file.probe()


def test_write_durability_syncs_only_when_sealing(tmp_path: Path, syscalls: Callable[..., None]) -> None:
    synced: list[int] = []
    syscalls(fdatasync=synced.append)
    file = SegmentStore(Folders(tmp_path), "0", by_site=True, durability="write").create()
    commit(file, b"{}")
    commit_batch(file, b"1", b"2")
    assert [] == synced
    file.seal()
    assert 1 == len(synced)


def test_lack_of_descriptors_or_space_does_not_break_a_segment_and_leaves_no_file(
    store: SegmentStore, tmp_path: Path, syscalls: Callable[..., None]
) -> None:
    real_open = os.open

    def one_short(path: Any, flags: int, *arguments: int) -> int:
        """The file can be opened, but its folder cannot."""
        if flags & os.O_DIRECTORY:
            raise OSError(EMFILE, os.strerror(EMFILE))
        return real_open(path, flags, *arguments)

    before = {store.create().path}
    syscalls(open=one_short)
    with pytest.raises(OSError, match="Too many open files"):
        store.create()
    syscalls(write=failing(ENOSPC))
    with pytest.raises(OSError, match="No space"):
        store.create()
    assert before == {*tmp_path.rglob("*.segment")}


def test_failed_fsync_of_a_new_segment_breaks_it_and_leaves_no_file(
    store: SegmentStore, tmp_path: Path, syscalls: Callable[..., None]
) -> None:
    before = {store.create().path}
    syscalls(fsync=failing(EIO))
    with pytest.raises(SegmentBroken, match="fsync failed"):
        store.create()
    assert before == {*(tmp_path / "journal" / "0").iterdir()}


def test_left_over_segments_are_found_in_every_workers_folder_oldest_first(tmp_path: Path) -> None:
    """Other files are left alone. A damaged header loses only the layout."""
    store = SegmentStore(Folders(tmp_path), "0", by_site=True, durability="fsync")
    for worker, name, data in (
        ("0", "20260102T000000Z-00000000000000bb.segment", encode_header(Header("00000000000000bb", by_site=False))),
        ("7", "20260101T000000Z-00000000000000aa.segment", encode_header(Header("00000000000000aa", by_site=True))),
        ("7", "20260103T000000Z-00000000000000cc.segment", b"damaged" * 10),
        ("7", "20260103T000000Z-00000000000000dd.segment", b""),
        ("7", "notes.txt", b"not ours"),
    ):
        (tmp_path / "journal" / worker).mkdir(parents=True, exist_ok=True)
        (tmp_path / "journal" / worker / name).write_bytes(data)
    (tmp_path / "journal" / "notes.txt").write_bytes(b"not ours")
    found = store.left_over()
    assert [("aa", True), ("bb", False), ("cc", True), ("dd", True)] == [(each.id[-2:], each.by_site) for each in found]
    assert all(each.left_over and each.buffer is None for each in found)


def test_unreadable_folder_of_a_worker_is_an_error(store: SegmentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it were skipped, its acknowledged events would silently stay out of the dataset."""
    file = store.create()
    file.close()
    scandir, listdir, own = os.scandir, os.listdir, str(file.path.parent)

    def refusing(listing: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def refuse(path: Any) -> Any:
            if os.fspath(path) == own:
                raise PermissionError(EACCES, "Permission denied", own)
            return listing(path)

        return refuse

    monkeypatch.setattr(os, "scandir", refusing(scandir))  # patched, because root may read every folder
    monkeypatch.setattr(os, "listdir", refusing(listdir))
    with pytest.raises(PermissionError, match=own):
        store.left_over()


def test_segment_without_records_is_empty() -> None:
    assert [] == list(scan(io.BytesIO(b""), ID))
