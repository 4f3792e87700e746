"""Measured here and now: how long the disk of data_dir takes to sync.

The files are in `staging/`, whose folders a start of the collector sweeps: killed half way, nothing is left for long.
Where data_dir is not there yet, they are in a folder of the system's naming beside it.
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

COMMIT_BYTES = 16_384  # a group of 16 events of 1 KB, as 5,000 events a second have it
COMMITS = 300
COMMIT_S = 3.0  # the longest that is measured, however few commits that is
WRITE_BYTES = 32 << 20
WRITE_S = 2.0
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpeed:
    """How the disk of data_dir writes."""

    commit_s: tuple[float, ...] = ()  # sorted: an append of COMMIT_BYTES and its sync
    bytes_per_s: float = 0.0  # written in one piece and synced
    error: str | None = None  # what cannot be done there, and why

    def commit_at(self, quantile: float) -> float:
        """So much of the commits took no longer."""
        return self.commit_s[min(len(self.commit_s) - 1, int(quantile * len(self.commit_s)))]


def measure_disk(folder: Folder) -> DiskSpeed:
    """Append and sync, link and sync the folder, as the journal and a flush do. Some seconds at most."""
    try:
        with _own_folder(folder) as own:
            bytes_per_s = _write(own / "written")
            step = "hard links"
            try:
                os.link(own / "written", own / "linked")
                step = "sync of a folder"
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
            os.chown(own, folder.owner, -1)  # so that whoever sweeps it, can
        yield own
    finally:
        rmtree(own, ignore_errors=True)


def _commits(path: Path) -> list[float]:
    """Seconds of each."""
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
    """Bytes a second, the sync at the end included."""
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
