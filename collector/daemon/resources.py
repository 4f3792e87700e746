"""The resources a process acquires before it serves: the data_dir, file descriptors, and its ports."""

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

# 10,000 connections with a request in flight take 80 MB, their bodies aside.
MAX_CONNECTIONS = 10_000

# What else needs descriptors: parts, the admin listener, and connections that are accepted before they can be counted:
# so many in each round of the event loop, and one that must go is closed five rounds later.
ACCEPTED_TOGETHER = 32
OTHER_DESCRIPTORS = 512

# How long a start waits for the workers of a supervisor that was killed: they drain, and then the lock and the ports
# are free. If they need longer, the next start finds them gone.
PATIENCE_S = 5.0
_POLL_S = 0.05

# What a client sends waits in the system while it is not read. By itself the system would keep megabytes of each
# connection, and hand over 256 KB at a time; a window of 32 KB brings 320 KB a second from a client 100 ms away.
RECEIVE_BUFFER_BYTES = 32_768

# Connections that wait to be accepted: those of the second that a restart takes. The system's own limit (somaxconn,
# 4096 by default) may be lower.
BACKLOG = 4096


class StartError(Exception):
    """The machine does not give what is needed; the message is one line for the operator."""


def max_connections() -> int:
    """Raise the limit of file descriptors as far as needed; how many connections it is enough for."""
    limit = raise_descriptor_limit(MAX_CONNECTIONS + OTHER_DESCRIPTORS)
    return min(MAX_CONNECTIONS, max(limit // 2, limit - OTHER_DESCRIPTORS))


@dataclass(frozen=True, slots=True)
class DataDir:
    """The data_dir of a process that writes to it, held by a descriptor.

    The process works *in* it (PostgreSQL does the same): its working directory is that folder, and every path below is
    relative. So a folder that is moved, or whose volume is unmounted, takes along all that is written, and nothing can
    be made anew on whatever lies where its path leads now.
    """

    path: Path
    """Absolute: what is compared with the descriptor, and said to people."""
    folder: int
    """The descriptor."""
    lock: int
    """The descriptor of its lock, which dies with all processes that have it."""

    @contextmanager
    def entered(self) -> Iterator[Path]:
        """Work in it; the root of its paths. Raises StartError."""
        with ExitStack() as left:
            with suppress(OSError):  # of a user who may not read where it was started, as /root: nowhere to go back to
                before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                left.callback(os.close, before)
                left.callback(os.fchdir, before)
            try:
                os.fchdir(self.folder)
            except OSError as exc:
                raise StartError(f"data_dir {self.path}: cannot be entered: {exc.strerror}") from None
            yield Path()

    def displaced(self) -> str | None:
        """Why the path does not lead to this folder any more, for a person; None while it does. May block."""
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return f"data_dir {self.path} is gone: it was moved, or its volume is not mounted"
        except OSError as exc:
            return f"data_dir {self.path} cannot be looked at: {exc.strerror}"
        here = os.fstat(self.folder)
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            return f"data_dir {self.path} is another folder than at the start: it was moved, or a volume (un)mounted"
        return None


@contextmanager
def owned(data_dir: Path, patience_s: float = 0.0) -> Iterator[DataDir]:
    """Make the data_dir, and lock it, so that nobody else writes to it. Raises StartError."""
    path = absolute(data_dir)
    try:
        make_folder(path)
        with suppress(PermissionError):  # whoever made it may have been killed before its sync
            fsync_folder(path.parent)
    except FileExistsError:
        raise StartError(f"data_dir {data_dir}: is not a folder") from None
    except OSError as exc:
        raise StartError(f"data_dir {data_dir}: cannot be made: {exc.strerror}: {exc.filename}") from None
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
        displaced = held.displaced()  # while we waited for the lock
        if displaced:
            raise StartError(displaced)
        yield held


def absolute(data_dir: Path) -> Path:
    """The path from the root. Raises StartError."""
    try:
        return data_dir.absolute()
    except FileNotFoundError:
        raise StartError(f"data_dir {data_dir}: is relative, and the working directory is gone") from None


def _lock(lock: int, folder: int, data_dir: Path, patience_s: float) -> None:
    """Lock the file, and the folder too, since the file may be removed under one that serves. Raises StartError."""
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                if exc.errno != errno.EBADF:  # of NFS, which locks nothing that is not open for writing
                    raise
        except BlockingIOError:
            if time.monotonic() >= until:
                raise StartError(f"data_dir {data_dir}: another collector is using it") from None
            time.sleep(_POLL_S)
        except OSError as exc:  # some network file systems lend no locks
            raise StartError(f"data_dir {data_dir}: cannot be locked: {exc.strerror}") from None
        else:
            return


def listen(host: str, port: int, section: str, inherited: Mapping[str, socket.socket] | None = None) -> socket.socket:
    """A listening socket, the inherited one if there is one; who connects waits until it is served.

    Raises StartError, naming the section.
    """
    if inherited and section in inherited:
        log.info("%s: the service manager's socket is used, not %s:%d", section, host, port)
        return inherited[section]
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)  # its connections have it
            bound.bind(address)
            bound.listen(BACKLOG)  # two sockets may be bound to one port until one listens
        except OSError:
            bound.close()
            raise
    except OSError as exc:
        raise StartError(f"{section}: cannot listen on {host}:{port}: {exc.strerror}") from None
    except UnicodeError:
        raise StartError(f"{section}: cannot listen on {host}:{port}: it is no name of a host") from None
    bound.setblocking(False)
    return bound


def url(bound: socket.socket) -> str:
    """Where a client finds it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
