"""Measure how long the disk of data_dir takes to sync.

The test files go into `staging/`, which the collector sweeps at its start, so a killed doctor leaves nothing for long.
If `staging/` does not exist yet, they go into a temporary folder in data_dir, or in the folder that will contain it.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from collector.cli.doctor.machine import Folder
from collector.parts.naming import STAGING

COMMIT_BYTES = 16_384  # 16 events of 1 KB, the size of a group at 5,000 events a second
COMMITS = 300
COMMIT_S = 3.0  # stop after this time, even with fewer commits
WRITE_BYTES = 32 << 20
WRITE_S = 2.0
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpeed:
    """How fast the disk of data_dir writes, or why it cannot be used."""

    commit_s: tuple[float, ...] = ()  # of each append of COMMIT_BYTES with its sync, sorted
    bytes_per_s: float = 0.0  # of one sequential write, its sync included
    error: str | None = None  # which operation fails, and why

    def commit_at(self, quantile: float) -> float:
        """The quantile (0 to 1) of the commit times, in seconds."""
        return self.commit_s[min(len(self.commit_s) - 1, int(quantile * len(self.commit_s)))]


def measure_disk(folder: Folder) -> DiskSpeed:
    """Append, sync, link, and sync the folder, as the journal and a flush do. Takes a few seconds at most."""
    try:
        with _own_folder(folder) as own:
            bytes_per_s = _write(own / "written")
            step = "hard links"
            try:
                os.link(own / "written", own / "linked")
                step = "fsync of a folder"
                descriptor = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as exc:
                return DiskSpeed(error=f"{step}: {exc.strerror}")
            return DiskSpeed(commit_s=tuple(sorted(_commits(own / "commits"))), bytes_per_s=bytes_per_s)
    except OSError as exc:
        return DiskSpeed(error=f"{exc.strerror}: {exc.filename or folder.path}")


@contextmanager
def _own_folder(folder: Folder) -> Iterator[Path]:
    staging = folder.path / STAGING
    swept = folder.is_data_dir and staging.is_dir()
    own = Path(mkdtemp(prefix="doctor-" if swept else ".collector-doctor-", dir=staging if swept else folder.path))
    try:
        if os.geteuid() == 0:
            os.chown(own, folder.owner, -1)  # so the collector's user can sweep it
        yield own
    finally:
        rmtree(own, ignore_errors=True)


def _commits(path: Path) -> list[float]:
    """The seconds that each commit took."""
    data = os.urandom(COMMIT_BYTES)
    took: list[float] = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        until = time.perf_counter() + COMMIT_S
        while len(took) < COMMITS and (began := time.perf_counter()) < until:
            os.write(descriptor, data)
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    return took


def _write(path: Path) -> float:
    """Bytes per second of one sequential write, its sync included."""
    chunk, written = os.urandom(CHUNK_BYTES), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        began = time.perf_counter()
        while written < WRITE_BYTES and time.perf_counter() < began + WRITE_S:
            written += os.write(descriptor, chunk)
        os.fdatasync(descriptor)
        return written / (time.perf_counter() - began)
    finally:
        os.close(descriptor)
