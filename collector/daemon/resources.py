"""The resources a process acquires before it serves: data_dir, file descriptors and ports."""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from collector.portable import raise_descriptor_limit
from collector.publish.local import fsync_folder, make_folder

log = logging.getLogger(__name__)

# 10,000 connections, each with a request in flight, take 80 MB plus the request bodies.
MAX_CONNECTIONS = 10_000

# Descriptors for everything else: parts, the admin listener, and connections that are accepted but not yet counted.
# The event loop accepts ACCEPTED_TOGETHER connections per turn and closes one over the limit five turns later.
ACCEPTED_TOGETHER = 32
OTHER_DESCRIPTORS = 512

# How long start-up waits for the workers of a killed supervisor to drain and free the lock and the ports. If they need
# longer, this start fails and a later one succeeds.
PATIENCE_S = 5.0
_POLL_S = 0.05

# The kernel buffers incoming bytes until we read them. Its default is megabytes per connection, and 256 KB per read.
# A window of 32 KB allows 320 KB a second from a client 100 ms away.
RECEIVE_BUFFER_BYTES = 32_768

# How many connections may wait to be accepted: enough for those that arrive during a one-second restart. The system's
# own limit (somaxconn, 4096 by default) may be lower.
BACKLOG = 4096


class StartError(Exception):
    """A resource is not available; the message is one line for the operator."""


def max_connections() -> int:
    """Raise the file descriptor limit as far as needed. Returns how many connections it allows."""
    limit = raise_descriptor_limit(MAX_CONNECTIONS + OTHER_DESCRIPTORS)
    return min(MAX_CONNECTIONS, max(limit // 2, limit - OTHER_DESCRIPTORS))


@dataclass(frozen=True, slots=True)
class DataDir:
    """The data_dir of a process that writes to it, held open by a descriptor.

    The process makes it its working directory, as PostgreSQL does, and uses relative paths for everything in it. If the
    folder is moved or its volume is unmounted, all writes still go to that folder and none to whatever replaces it.
    """

    path: Path
    """Absolute. `displaced` compares it with the descriptor, and messages name it."""
    folder: int
    """Descriptor of the folder."""
    lock: int
    """Descriptor of the lock file. The lock is released when the last process that has the descriptor ends."""

    @contextmanager
    def entered(self) -> Iterator[Path]:
        """Make it the working directory, and yield the path to it from there. Raises StartError."""
        with ExitStack() as left:
            with suppress(OSError):  # a user who may not read the starting folder, such as /root, cannot go back
                before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                left.callback(os.close, before)
                left.callback(os.fchdir, before)
            try:
                os.fchdir(self.folder)
            except OSError as exc:
                raise StartError(f"data_dir {self.path}: cannot be entered: {exc.strerror}") from None
            yield Path()

    def displaced(self) -> str | None:
        """A message if the path no longer leads to this folder, else None. May block."""
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return f"data_dir {self.path} is gone: it was moved, or its volume is not mounted"
        except OSError as exc:
            return f"data_dir {self.path} cannot be checked: {exc.strerror}"
        here = os.fstat(self.folder)
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            return (
                f"data_dir {self.path} is another folder than at the start: "
                "it was moved, or a volume was mounted or unmounted"
            )
        return None


@contextmanager
def owned(data_dir: Path, patience_s: float = 0.0) -> Iterator[DataDir]:
    """Create data_dir and lock it against other writers, waiting up to `patience_s`. Raises StartError."""
    path = absolute(data_dir)
    try:
        make_folder(path)
        with suppress(PermissionError):  # in case an earlier start was killed before this sync
            fsync_folder(path.parent)
    except FileExistsError:
        raise StartError(f"data_dir {data_dir}: is not a folder") from None
    except OSError as exc:
        raise StartError(f"data_dir {data_dir}: cannot be created: {exc.strerror}: {exc.filename}") from None
    with ExitStack() as opened:
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, folder)
            lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=folder)
            opened.callback(os.close, lock)
        except OSError as exc:
            raise StartError(f"data_dir {data_dir}: {exc.strerror}") from None
        _lock(lock, folder, data_dir, patience_s)
        held = DataDir(path, folder, lock)
        displaced = held.displaced()  # it may have been moved while we waited for the lock
        if displaced:
            raise StartError(displaced)
        yield held


def absolute(path: Path, setting: str = "data_dir") -> Path:
    """The absolute path of a setting. Raises StartError."""
    try:
        return path.absolute()
    except FileNotFoundError:
        raise StartError(f"{setting} {path}: is relative, but the working directory no longer exists") from None


def _lock(lock: int, folder: int, data_dir: Path, patience_s: float) -> None:
    """Lock the file, and also the folder, because someone may delete the file. Raises StartError."""
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno != errno.EBADF:  # NFS locks only files that are open for writing
                    raise
        except BlockingIOError:
            if time.monotonic() >= until:
                raise StartError(f"data_dir {data_dir}: another collector is using it") from None
            time.sleep(_POLL_S)
        except OSError as exc:  # some network file systems have no locks
            raise StartError(f"data_dir {data_dir}: cannot be locked: {exc.strerror}") from None
        else:
            return


def listen(host: str, port: int, section: str, inherited: Mapping[str, socket.socket] | None = None) -> socket.socket:
    """A listening socket: the one inherited for the section, or a new one. Clients can connect, and wait to be served.

    Raises StartError, which names the section.
    """
    if inherited and section in inherited:
        log.info("%s: using the service manager's socket, not %s:%d", section, host, port)
        return inherited[section]
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)  # its connections inherit it
            bound.bind(address)
            bound.listen(BACKLOG)  # two sockets can bind the same port until one listens
        except OSError:
            bound.close()
            raise
    except OSError as exc:
        raise StartError(f"{section}: cannot listen on {host}:{port}: {exc.strerror}") from None
    except UnicodeError:
        raise StartError(f"{section}: cannot listen on {host}:{port}: not a valid host name") from None
    bound.setblocking(False)
    return bound


def url(bound: socket.socket) -> str:
    """The URL of a listening socket, or `unix:` and its path."""
    if bound.family == socket.AF_UNIX:
        return f"unix:{bound.getsockname()}"
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
