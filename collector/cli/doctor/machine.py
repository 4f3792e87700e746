"""Facts about the machine, collected without changing anything.

The doctor may run next to a serving collector, so it takes no lock, and closes each port as soon as it is bound.
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
from collector.daemon.public_sockets import TAKEN, obstacle
from collector.daemon.resources import StartError, absolute, listen
from collector.journal.flush.quarantine import QUARANTINE
from collector.journal.record import JOURNAL
from collector.journal.segment import SEGMENT_NAME
from collector.parts.naming import EVENTS

ADMIN_PATIENCE_S = 2.0
NEWEST_PARTS = 20
# The footer and headers of a part take 18 KB, whatever its rows. With the events of bench/sample.py, a part of 100 rows
# takes 392 bytes a row, one of 1,000 rows 112, and one of 10,000 rows 88.
ENOUGH_ROWS = 1_000
MOST_FILES_LOOKED_AT = 20_000  # a data_dir with years of events has millions

_TIME_ERROR = 5  # TIME_ERROR of adjtimex(2): the clock is not synchronised


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """data_dir, or its nearest parent that exists."""

    path: Path
    is_data_dir: bool
    is_folder: bool
    owner: int
    writable: bool
    file_system: str  # "" if unknown
    free_bytes: int
    free_inodes: int | None  # None: this file system does not count them
    error: str | None = None  # why it cannot be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What data_dir contains."""

    segments: int = 0
    segment_bytes: int = 0
    quarantined: int = 0
    newest_s: float | None = None  # when the newest part was written, in seconds since the epoch
    bytes_per_event: float | None = None  # of the newest parts; None if they have fewer than ENOUGH_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that the collector would listen on."""

    name: str
    address: str
    error: str | None = None  # why listening failed
    is_taken: bool = False
    held_by_systemd: bool | None = None  # None: unknown, because only root can see it


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSocket:
    """The path of the Unix socket that the collector would listen on."""

    path: Path
    error: str | None = None  # why listening would fail
    is_taken: bool = False  # because another process listens there


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """All facts that the checks use."""

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
    unix_socket: UnixSocket | None  # None: none is configured
    serving_pid: int | None  # the process that holds the lock of data_dir
    serving_version: str | None  # of the collector that answers on the admin port


def look_at(config: Config) -> Machine:
    """Collect the facts that matter to a collector with this configuration. Raises StartError."""
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
        ports=(
            *([look_at_port("server", server.host, server.port)] if server.host else []),
            look_at_port("admin", admin.host, admin.port),
        ),
        unix_socket=look_at_socket(Path(server.unix_socket)) if server.unix_socket else None,
        serving_pid=lock_holder(data_dir / "lock"),
        serving_version=version_of(admin.host, admin.port),
    )


def memory_bytes() -> int | None:
    """The machine's memory, or the lowest limit of this process's control groups, whichever is less."""
    found = []
    with suppress(OSError):
        found.append(psutil.virtual_memory().total)
    with suppress(OSError, IndexError):  # psutil does not read control groups
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].split(":", 2)[2].lstrip("/")
        root = Path("/sys/fs/cgroup")
        for folder in (root / group, *(root / group).parents):
            limit = _number(folder / "memory.max")
            found += [limit] if limit is not None else []
    return min(found, default=None)


def clock_is_synchronised() -> bool | None:
    """Whether the kernel considers the clock synchronised; None if it does not say."""
    try:
        # struct timex has 208 bytes. Its first field, `modes`, is 0, so the call only reads.
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def look_at_folder(data_dir: Path) -> Folder:
    """Facts about data_dir, or about its nearest existing parent, in which it would be created."""
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
    """Each mount point with its type of file system; empty if the kernel does not say."""
    with suppress(OSError):
        return [(mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)]
    return []


def file_system_of(path: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """The type of the path's file system: that of the deepest mount above it, and of the last one mounted there."""
    above = [(len(Path(point).parts), kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(reversed(above), key=lambda mount: mount[0], default=(0, ""))[1]


def look_into(data_dir: Path) -> Kept:
    """Count the segments, quarantined files and newest parts. Skips files that vanish or cannot be read."""
    segments = [
        size for path in _files(data_dir / JOURNAL, 2) if SEGMENT_NAME.fullmatch(path.name) for size in _size(path)
    ]
    quarantined = sum(1 for _ in _files(data_dir / QUARANTINE, 2))
    parts: list[tuple[float, Path]] = []
    for path in _files(data_dir / EVENTS, 3):
        with suppress(OSError):
            if path.is_file():  # opening a pipe of that name would block
                parts.append((path.stat().st_mtime, path))
    parts.sort(reverse=True)
    rows = size_bytes = 0
    for _, path in parts[:NEWEST_PARTS]:
        with suppress(Exception):  # `inspect` reports broken parts
            rows += pq.read_metadata(path).num_rows
            size_bytes += path.stat().st_size
    return Kept(
        segments=len(segments),
        segment_bytes=sum(segments),
        quarantined=quarantined,
        newest_s=parts[0][0] if parts else None,
        bytes_per_event=size_bytes / rows if rows >= ENOUGH_ROWS else None,
    )


def _files(folder: Path, depth: int) -> Iterator[Path]:
    """Files up to `depth` levels below, newest days first, at most MOST_FILES_LOOKED_AT of them."""
    left = MOST_FILES_LOOKED_AT
    waiting = [(folder, depth)]
    while waiting and left:
        at, deeper = waiting.pop()
        try:
            entries = sorted(os.scandir(at), key=lambda entry: entry.name)  # so the last day is popped first
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
    """Listen on the port for a moment, to find out whether that works."""
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


def look_at_socket(path: Path) -> UnixSocket:
    """Look at the path and its folder, and change nothing."""
    try:
        path = path.absolute()
        found = obstacle(path)
    except OSError as exc:
        found = exc.strerror or str(exc)
    if found:
        return UnixSocket(path=path, error=found, is_taken=found == TAKEN)
    if not path.parent.is_dir():
        return UnixSocket(path=path, error=f"the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return UnixSocket(path=path, error=f"the folder {path.parent} is not writable")
    return UnixSocket(path=path)


def listens(pid: int, port: int) -> bool | None:
    """Whether the process listens on the port; None if unknown. For socket units that process is 1, systemd."""
    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return None
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


def lock_holder(lock: Path) -> int | None:
    """The pid that holds the file's flock. Reads /proc/locks, because trying the lock would take it."""
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
    """The version of the collector whose admin listener answers there; None if none does."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    place = f"[{host}]" if ":" in host else host
    try:
        with urlopen(f"http://{place}:{port}/version", timeout=ADMIN_PATIENCE_S) as response:
            version = json.loads(response.read(10_000))
        return str(version["version"]) if "contract" in version else None
    except (TimeoutError, OSError, ValueError, TypeError, KeyError):
        return None


def _number(file: Path) -> int | None:
    """The number in a file of /proc or /sys; None if the file is missing or says `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
