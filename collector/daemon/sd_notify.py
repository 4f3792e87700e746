"""What we tell the service manager that started us (systemd, Type=notify), and how it knows that we live.

A datagram of `NAME=value` lines to the socket that NOTIFY_SOCKET names; without it nothing is sent. Nothing here
waits: a datagram that finds the manager's queue full is dropped, unless it is a change of state, which the next ping
brings along, because a lost READY=1 would end in a kill.

    READY=1      events are taken (or refused for a reason: that too is an answer)
    RELOADING=1  the configuration is read again; READY=1 ends it, whatever became of it
    STOPPING=1   draining
    WATCHDOG=1   the event loop turns: from a coroutine of it, because a thread would go on while the loop hangs
    STATUS=...   one line for `systemctl status`
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

PINGS_PER_TIMEOUT = 3  # one that is lost, and one that is late, are no death
LONGEST_PING_S = 1.0


class Manager:
    """The service manager, or nobody."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self.ping_every_s = min(LONGEST_PING_S, watchdog_s / PINGS_PER_TIMEOUT) if watchdog_s else LONGEST_PING_S
        self._watched = watchdog_s > 0
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._is_ready = False
        self._unsent: list[str] = []
        self._status = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address else None
        if self._socket is not None:
            self._socket.setblocking(False)

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> "Manager":
        """The one that the environment names; out of it afterwards, so that no child speaks for us."""
        address = environ.pop("NOTIFY_SOCKET", "")
        timeout_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = timeout_us.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(timeout_us) / 1e6 if watched else 0.0)

    def ready(self) -> None:
        """Say so, once."""
        if not self._is_ready:
            self._change("READY=1")
        self._is_ready = True

    def reloading(self) -> None:
        """To be followed by `reloaded`. Who is not ready, or is stopping, says neither: READY=1 would be a lie."""
        if self._is_ready:
            self._change(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        if self._is_ready:
            self._change("READY=1")

    def stopping(self) -> None:
        self._is_ready = False
        self._change("STOPPING=1")

    def ping(self) -> None:
        """Say that the event loop turns. To be called in it, every `ping_every_s`."""
        if self._unsent:
            self._change()
        if self._watched:
            self._send("WATCHDOG=1")

    def status(self, line: str) -> None:
        """Show that line, if it is not what is shown."""
        line = " ".join(line.split())  # a line break would begin another variable
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def _change(self, *changes: str) -> None:
        """Send what has not been sent, in its order."""
        self._unsent += changes
        while self._unsent and self._send(self._unsent[0]):
            del self._unsent[0]

    def _send(self, text: str) -> bool:
        """Whether it need not be sent again."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(text.encode(), self._address)
        except BlockingIOError:
            return False
        except OSError as exc:
            log.warning("the service manager cannot be told: %s", exc)
        return True
