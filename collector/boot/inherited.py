"""Listening sockets that the service manager opened for us (systemd's socket activation).

They are descriptors 3 and up, as many as LISTEN_FDS says, for the process that LISTEN_PID names, and called as
LISTEN_FDNAMES says: `http` is the public listener, `admin` the other. The manager keeps its own copy of each, so what
connects while we are gone waits for the next of us.
"""

import os
import socket
from collections.abc import MutableMapping

from collector.config_file import ConfigError

FIRST = 3
SECTIONS = {"http": "server", "admin": "admin"}
"""The name of a socket, and the section of the configuration that would else say where to listen."""


def inherited(environ: MutableMapping[str, str], first: int = FIRST) -> dict[str, socket.socket]:
    """The sockets by section; the variables are gone afterwards, for no child has them. Raises ConfigError."""
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, socket.socket] = {}
    errors = []
    for number, name in enumerate((names.split(":") + int(count) * ["unknown"])[: int(count)], first):
        try:
            passed = _listening(number)
            if name not in SECTIONS:
                raise ValueError(f"is no name for it: known are {', '.join(SECTIONS)}")
            if SECTIONS[name] in found:
                raise ValueError("was passed twice; one ListenStream is enough: [::] takes IPv4 too")
        except (OSError, ValueError) as exc:
            errors.append(f"the socket {name!r} that the service manager passed: {exc}")
        else:
            found[SECTIONS[name]] = passed
    if errors:
        raise ConfigError(errors)
    return found


def _listening(number: int) -> socket.socket:
    """The socket of that descriptor. Raises ValueError or OSError where we cannot serve on it."""
    os.set_inheritable(number, False)
    passed = socket.socket(fileno=number)
    if passed.family not in (socket.AF_INET, socket.AF_INET6) or passed.type != socket.SOCK_STREAM:
        raise ValueError("is not TCP")
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("does not listen; its unit should have Accept=no")
    passed.setblocking(False)
    return passed
