"""The sockets that clients and proxies connect to: host and port, a Unix socket, or both.

The file of a Unix socket outlives its process. At the start, one that nobody listens on is replaced; anything else at
its path stays, and is an error. When the process ends in order, its file is removed.
"""

import errno
import logging
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from collector.addresses import UNIX
from collector.config import LONGEST_SOCKET_PATH_BYTES, Server
from collector.daemon.resources import BACKLOG, StartError, absolute, listen
from collector.daemon.socket_activation import UNIX_SOCKET

log = logging.getLogger(__name__)

NO_ADDRESSES = (
    'server.trusted_proxies lacks "unix": clients that come through the Unix socket have no address, and share '
    "one rate limit"
)
TAKEN = "another process listens there"


@contextmanager
def public_sockets(server: Server, inherited: Mapping[str, socket.socket]) -> Iterator[list[socket.socket]]:
    """The listening sockets, TCP first. An inherited one takes the place of its setting. Raises StartError."""
    with ExitStack() as opened:
        found = []
        if server.host or "server" in inherited:
            found.append(opened.enter_context(listen(server.host, server.port, "server", inherited)))
        if UNIX_SOCKET in inherited:
            if server.unix_socket:
                log.info("server: using the service manager's socket, not %s", server.unix_socket)
            found.append(opened.enter_context(inherited[UNIX_SOCKET]))
        elif server.unix_socket:
            mode = int(server.unix_socket_mode, 8)
            found.append(opened.enter_context(listening_at(Path(server.unix_socket), mode)))
        if any(bound.family == socket.AF_UNIX for bound in found) and UNIX not in server.trusted_proxies:
            log.warning("%s", NO_ADDRESSES)
        if not found:
            raise StartError("server: there is nothing to listen on: set server.host or server.unix_socket")
        yield found


def hints(server: Server) -> Iterator[str]:
    """What the settings lead to, where that may surprise."""
    if server.unix_socket and UNIX not in server.trusted_proxies:
        yield NO_ADDRESSES
    if not server.host and not server.unix_socket:
        yield "server.host and server.unix_socket are empty: only systemd's socket unit can give the collector a socket"


@contextmanager
def listening_at(path: Path, mode: int) -> Iterator[socket.socket]:
    """A Unix socket that listens at the path, until the end of the block. Raises StartError."""
    path = absolute(path, "server.unix_socket")  # the process changes its working directory
    bound, created = _bind(path, mode)
    with bound:
        try:
            yield bound
        finally:
            with suppress(OSError):
                if _identity(path) == created:  # not another's, which may have replaced it
                    os.unlink(path)


def _bind(path: Path, mode: int) -> tuple[socket.socket, tuple[int, ...]]:
    """Return the listening socket and the identity of its file. `path`: absolute."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _make_way(path)
        # The file has its mode from the beginning. At this point the process has no other thread that makes files.
        umask = os.umask(0o777 & ~mode)
        try:
            bound.bind(str(path))
        finally:
            os.umask(umask)
        bound.listen(BACKLOG)
        bound.setblocking(False)
        return bound, _identity(path)
    except OSError as exc:
        bound.close()
        missing = exc.errno == errno.ENOENT and not path.parent.is_dir()
        why = f"the folder {path.parent} does not exist" if missing else exc.strerror or str(exc)
        raise StartError(f"server: cannot listen on {path}: {why}") from None
    except StartError:
        bound.close()
        raise


def _make_way(path: Path) -> None:
    """Remove a socket that nobody listens on. Raises StartError if anything else is there, and OSError."""
    problem = obstacle(path)
    if problem is None:
        with suppress(FileNotFoundError):
            os.unlink(path)
    elif problem:
        raise StartError(f"server: cannot listen on {path}: {problem}")


def obstacle(path: Path) -> str | None:
    """What is at the path, to complete an error message. Empty: nothing. None: a socket that nobody listens on."""
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH_BYTES:  # one that was short enough while it was relative
        return f"the absolute path has more than {LONGEST_SOCKET_PATH_BYTES} bytes, the system's limit"
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return ""
    if not is_socket:
        return "a file that is no socket is there; remove it, or choose another path"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # if its queue is full, connecting would wait
        error = probe.connect_ex(str(path))
    if error in (0, errno.EAGAIN, errno.EINPROGRESS):
        return TAKEN
    if error == errno.ECONNREFUSED:
        return None
    return f"it is not known whether another process listens there: {os.strerror(error)}"


def _identity(path: Path) -> tuple[int, ...]:
    """The file's identity. With its time, because a file system may give a new file the number of a removed one."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns  # which chmod and chown leave as it is
