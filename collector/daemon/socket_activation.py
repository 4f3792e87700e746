"""Socket activation: listening sockets that the service manager (systemd) opens and passes to us.

LISTEN_PID is the process they are for, LISTEN_FDS how many there are (from descriptor 3 up), and LISTEN_FDNAMES their
names: `http` for the public listener, which may be a TCP and a Unix socket, and `admin` for the admin listener. The
manager keeps each socket open too, so clients that connect while no collector runs wait for the next one.
"""

import os
import socket
from collections.abc import Container, MutableMapping

from collector.config_file import ConfigError

FIRST = 3
SECTIONS = {"http": "server", "admin": "admin"}
"""Socket names, each with the section of the configuration whose host and port it replaces."""
UNIX_SOCKET = "unix_socket"
"""The key of the public Unix socket, which replaces the setting `server.unix_socket`."""


def inherited(environ: MutableMapping[str, str], first: int = FIRST) -> dict[str, socket.socket]:
    """The sockets, by section or UNIX_SOCKET. Removes the variables, as no child process gets the sockets.

    Raises ConfigError.
    """
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, socket.socket] = {}
    errors = []
    for number, name in enumerate((names.split(":") + int(count) * ["unknown"])[: int(count)], first):
        os.set_inheritable(number, False)
        try:
            passed = socket.socket(fileno=number)
        except OSError as exc:
            errors.append(f"the service manager passed {name!r}, which is not a socket: {exc.strerror}")
            continue
        wrong = _wrong(passed, name, found)
        if wrong is None:
            passed.setblocking(False)
            found[_key(passed, name)] = passed
        else:
            passed.close()
            errors.append(f"the service manager passed the socket {name!r}, which {wrong}")
    if errors:
        for passed in found.values():
            passed.close()
        raise ConfigError(errors)
    return found


def _wrong(passed: socket.socket, name: str, found: Container[str]) -> str | None:
    """Why the collector cannot serve on the socket, to complete an error message. None if it can."""
    if name not in SECTIONS:
        return f"should be named {' or '.join(SECTIONS)}: set FileDescriptorName= in its unit"
    families = [socket.AF_INET, socket.AF_INET6, *([socket.AF_UNIX] if SECTIONS[name] == "server" else [])]
    if passed.family not in families or passed.type != socket.SOCK_STREAM:
        return "is neither TCP nor a Unix stream socket" if SECTIONS[name] == "server" else "is not TCP"
    if _key(passed, name) in found:
        of_its_kind = "Unix" if passed.family == socket.AF_UNIX else "TCP"
        return f"is the second of its kind; one ListenStream= for {of_its_kind} is enough: [::] accepts IPv4 too"
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen; set Accept=no in its unit"
    return None


def _key(passed: socket.socket, name: str) -> str:
    return UNIX_SOCKET if passed.family == socket.AF_UNIX else SECTIONS[name]
