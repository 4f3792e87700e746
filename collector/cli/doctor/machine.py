"""What the machine is like: looked up, nothing changed.

It runs beside a collector that serves: it takes no lock and no port for longer than a bind.
"""

import ctypes
import errno
import json
import os
import resource
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil
import pyarrow.parquet as pq

from collector.config import Config
from collector.daemon.resources import StartError, absolute, listen
from collector.journal.flush.quarantine import QUARANTINE
from collector.journal.record import JOURNAL
from collector.journal.segment import SEGMENT_NAME
from collector.parts.naming import EVENTS

ADMIN_PATIENCE_S = 2.0
NEWEST_PARTS = 20
MOST_FILES_LOOKED_AT = 20_000  # a data_dir of years has millions

_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """data_dir, or the nearest folder above it that is there."""

    path: Path
    is_data_dir: bool
    is_folder: bool
    owner: int
    writable: bool
    file_system: str  # "" where it is not known
    free_bytes: int
    free_inodes: int | None  # None: this file system does not count them
    error: str | None = None  # why it cannot be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What data_dir holds."""

    segments: int = 0
    segment_bytes: int = 0
    quarantined: int = 0
    newest_s: float | None = None  # when the newest part or segment was written
    bytes_per_event: float | None = None  # of the newest parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that is to be listened on."""

    name: str
    address: str
    error: str | None = None  # why it cannot be
    is_taken: bool = False
    held_by_systemd: bool | None = None  # None: not known; only root may look


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything that checks ask for."""

    user: int
    cores: int
    memory_bytes: int | None
    max_descriptors: int
    backlog: int | None
    clock_synchronised: bool | None
    now_s: float
    folder: Folder
    kept: Kept
    ports: tuple[Port, ...]
    serving_pid: int | None  # who holds the lock of data_dir
    serving_version: str | None  # of the collector that answers on the admin port


def look_at(config: Config) -> Machine:
    """The machine, as a collector with this configuration would find it. Raises StartError."""
    data_dir = absolute(config.storage.data_dir)
    admin, server = config.admin, config.server
    return Machine(
        user=os.geteuid(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=memory_bytes(),
        max_descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        backlog=_number(Path("/proc/sys/net/core/somaxconn")),
        clock_synchronised=clock_is_synchronised(),
        now_s=time.time(),
        folder=look_at_folder(data_dir),
        kept=look_into(data_dir),
        ports=(look_at_port("server", server.host, server.port), look_at_port("admin", admin.host, admin.port)),
        serving_pid=lock_holder(data_dir / "lock"),
        serving_version=version_of(admin.host, admin.port),
    )


def memory_bytes() -> int | None:
    """What the machine has, or the least that a control group above us allows."""
    found = []
    with suppress(OSError):
        found.append(psutil.virtual_memory().total)
    with suppress(OSError, IndexError):  # psutil knows no control groups
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].split(":", 2)[2].lstrip("/")
        root = Path("/sys/fs/cgroup")
        for folder in (root / group, *(root / group).parents):
            limit = _number(folder / "memory.max")
            found += [limit] if limit is not None else []
    return min(found, default=None)


def clock_is_synchronised() -> bool | None:
    """Whether something keeps the clock right, as the kernel was told; None where it does not say."""
    try:
        # struct timex has 208 bytes; its first, `modes`, is 0: only read.
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def look_at_folder(data_dir: Path) -> Folder:
    """data_dir; where it is missing, what it would be made in."""
    path = data_dir
    try:
        while not path.exists() and not path.is_symlink() and path != path.parent:
            path = path.parent
        found, disk = path.stat(), os.statvfs(path)
    except OSError as exc:
        return Folder(
            path=path,
            is_data_dir=path == data_dir,
            is_folder=False,
            owner=-1,
            writable=False,
            file_system="",
            free_bytes=0,
            free_inodes=None,
            error=exc.strerror,
        )
    return Folder(
        path=path,
        is_data_dir=path == data_dir,
        is_folder=stat.S_ISDIR(found.st_mode),
        owner=found.st_uid,
        writable=os.access(path, os.R_OK | os.W_OK | os.X_OK),
        file_system=file_system_of(path.resolve(), _mounts()),
        free_bytes=disk.f_bavail * disk.f_frsize,
        free_inodes=disk.f_favail if disk.f_files else None,
    )


def _mounts() -> list[tuple[str, str]]:
    """Where something is mounted, and the type of its file system; nothing where the kernel does not say."""
    with suppress(OSError):
        return [(mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)]
    return []


def file_system_of(path: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """The type of the file system that has the path: of the mounts above it the deepest, and of those the last."""
    above = [(len(Path(point).parts), kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(reversed(above), key=lambda mount: mount[0], default=(0, ""))[1]


def look_into(data_dir: Path) -> Kept:
    """What is there. What vanishes meanwhile, or may not be read, does not count."""
    segments = [
        size for path in _files(data_dir / JOURNAL, 2) if SEGMENT_NAME.fullmatch(path.name) for size in _size(path)
    ]
    quarantined = sum(1 for _ in _files(data_dir / QUARANTINE, 2))
    parts: list[tuple[float, Path]] = []
    for path in _files(data_dir / EVENTS, 3):
        with suppress(OSError):
            if path.is_file():  # a pipe of that name would be waited for
                parts.append((path.stat().st_mtime, path))
    parts.sort(reverse=True)
    rows = size_bytes = 0
    for _, path in parts[:NEWEST_PARTS]:
        with suppress(Exception):  # a broken one is a matter for `inspect`
            rows += pq.read_metadata(path).num_rows
            size_bytes += path.stat().st_size
    return Kept(
        segments=len(segments),
        segment_bytes=sum(segments),
        quarantined=quarantined,
        newest_s=parts[0][0] if parts else None,
        bytes_per_event=size_bytes / rows if rows else None,
    )


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Files at most so deep below, the newest days first, and not without end."""
    left = MOST_FILES_LOOKED_AT
    waiting = [(folder, depth)]
    while waiting and left:
        at, deeper = waiting.pop()
        try:
            entries = sorted(os.scandir(at), key=lambda entry: entry.name)  # so that the last day is popped first
        except OSError:
            continue
        for entry in entries[-left:]:
            if entry.is_dir(follow_symlinks=False):
                if deeper > 1:
                    waiting.append((Path(entry.path), deeper - 1))
            else:
                left -= 1
                yield Path(entry.path)


def _size(path: Path) -> Iterator[int]:
    with suppress(OSError):
        yield path.stat().st_size


def look_at_port(name: str, host: str, port: int) -> Port:
    """Whether it can be listened on, by doing so for a moment."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        listen(host, port, name).close()
    except StartError as exc:
        cause = exc.__context__
        taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
        error = str(exc).partition(": cannot listen on ")[2].removeprefix(f"{host}:{port}: ")
        systemd = listens(1, port) if taken else None
        return Port(name=name, address=address, error=error, is_taken=taken, held_by_systemd=systemd)
    return Port(name=name, address=address)


def listens(pid: int, port: int) -> bool | None:
    """Whether that process listens there; None: not known. Process 1, systemd, does for a unit of type socket."""
    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return None
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


def lock_holder(lock: Path) -> int | None:
    """Who holds the flock of that file, as the kernel lists it (psutil does not): to try it would be to take it."""
    try:
        inode = lock.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4])
    return None


def version_of(host: str, port: int) -> str | None:
    """The version of the collector whose admin listener is there, if one is."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    place = f"[{host}]" if ":" in host else host
    try:
        with urlopen(f"http://{place}:{port}/version", timeout=ADMIN_PATIENCE_S) as answer:
            told = json.loads(answer.read(10_000))
        return str(told["version"]) if "contract" in told else None
    except (TimeoutError, OSError, ValueError, TypeError, KeyError):
        return None


def _number(file: Path) -> int | None:
    """The number in a file of the kernel's; None where it is missing, or says `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
