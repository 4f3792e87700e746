"""Listening sockets that the service manager opened for us (systemd's socket activation).

LISTEN_PID names the process they are for, LISTEN_FDS their number, from descriptor 3 up, and LISTEN_FDNAMES their
names: `http` is the public listener, `admin` the admin listener. The manager keeps its own copy of each, so
clients that connect while no collector runs wait for the next one.
"""

import os
import socket
from collections.abc import Container, MutableMapping

from collector.config_file import ConfigError

FIRST = 3
SECTIONS = {"http": "server", "admin": "admin"}
"""The name of a socket, and the section of the configuration whose host and port it replaces."""


def inherited(environ: MutableMapping[str, str], first: int = FIRST) -> dict[str, socket.socket]:
    """The sockets by section. Removes the variables: no child process gets the sockets. Raises ConfigError."""
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
            errors.append(f"the socket {name!r} that the service manager passed is none: {exc.strerror}")
            continue
        wrong = _wrong(passed, name, found)
        if wrong is None:
            passed.setblocking(False)
            found[SECTIONS[name]] = passed
        else:
            passed.close()
            errors.append(f"the socket {name!r} that the service manager passed {wrong}")
    if errors:
        for passed in found.values():
            passed.close()
        raise ConfigError(errors)
    return found


def _wrong(passed: socket.socket, name: str, found: Container[str]) -> str | None:
    """Why we cannot serve on it."""
    if name not in SECTIONS:
        return f"has another name than {' or '.join(SECTIONS)}"
    if SECTIONS[name] in found:
        return "comes twice; one ListenStream is enough: [::] takes IPv4 too"
    if passed.family not in (socket.AF_INET, socket.AF_INET6) or passed.type != socket.SOCK_STREAM:
        return "is not TCP"
    if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "does not listen; its unit should have Accept=no"
    return None
