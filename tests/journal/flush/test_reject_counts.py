"""Rejects in a flush: published ones count as kept, all others as lost."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from collector.journal.flush.rejects import Rejected
from tests.journal.flush.test_flusher import Bench
from tests.journal.test_journal import make_journal
from tests.support import NOON_US, FakeClock, read_rows


@pytest.fixture
def bench(tmp_path: Path, clock: FakeClock) -> Bench:
    return Bench(tmp_path, make_journal(clock=clock), clock)


@pytest.mark.parametrize("broken", [(), ("a",), ("b",), ("a", "c"), ("a", "b", "c")])
async def test_reject_counts_as_kept_if_published_and_otherwise_as_lost(
    bench: Bench, tmp_path: Path, broken: tuple[str, ...]
) -> None:
    """If a site's folder cannot be made, the other sites lose nothing, in any order."""
    for site in broken:
        (tmp_path / "rejected").mkdir(exist_ok=True)
        (tmp_path / "rejected" / f"site={site}").write_text("in the way")
    for number, site in enumerate("abc", 1):
        for _ in range(number):
            bench.rejects.keep(site, Rejected(NOON_US, "why", b"what"))
    assert await bench.flusher.flush()
    kept = sum(number for number, site in enumerate("abc", 1) if site not in broken)
    assert kept == len(read_rows(tmp_path / "rejected"))
    assert (kept, 6 - kept) == bench.rejected()


async def test_reject_whose_name_could_not_be_synced_still_counts_as_kept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers see it, so it is not lost. The second attempt syncs it."""
    synced: list[Path] = []

    def fails_once(folder: Path) -> None:
        synced.append(folder)
        if len(synced) == 1:
            raise OSError(5, "Input/output error")

    bench.rejects.keep("a", Rejected(NOON_US, "why", b"what"))
    (tmp_path / "rejected" / "site=a" / "date=2026-05-28").mkdir(parents=True)
    bench.writer.folders.make(tmp_path / "rejected" / "site=a" / "date=2026-05-28")
    monkeypatch.setattr("collector.publish.local.fsync_folder", fails_once)
    monkeypatch.setattr("collector.parts.writer.fsync_folder", synced.append)
    assert await bench.flusher.flush()
    assert 1 == len(read_rows(tmp_path / "rejected"))
    assert (1, 0) == bench.rejected()
    assert 2 == len(synced)


async def test_published_reject_is_kept_even_if_old_ones_cannot_be_deleted(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next flush tries to delete them again."""
    bench = Bench(tmp_path, make_journal(clock=clock), clock, rejected_max_bytes=1)
    monkeypatch.setattr(Path, "unlink", _refuses)
    bench.rejects.keep("a", Rejected(NOON_US, "why", b"what"))
    assert await bench.flusher.flush()
    assert (1, 0) == bench.rejected()
    assert "rejected/ cannot be kept below 1 bytes: [Errno 1] Operation not permitted" in caplog.text
    assert 1 == len(read_rows(tmp_path / "rejected"))
    monkeypatch.undo()
    bench.rejects.keep("a", Rejected(NOON_US, "why", b"what"))
    assert await bench.flusher.flush()
    assert [] == read_rows(tmp_path / "rejected")
    assert (2, 0) == bench.rejected()


def _refuses(path: Path, *, missing_ok: bool = False) -> None:
    if path.parent.name.startswith("date="):
        raise PermissionError(1, "Operation not permitted")
    with suppress(FileNotFoundError):
        os.unlink(path)
