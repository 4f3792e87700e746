"""Notifications to the service manager (systemd, Type=notify): state changes, the status line, watchdog pings.

A notification is a datagram of `NAME=value` lines, sent to the socket that NOTIFY_SOCKET names. Without that variable
nothing is sent. Sending never blocks: if the manager's queue is full, the datagram is dropped. State changes are sent
again with the next ping, because systemd kills a service whose READY=1 is lost.

    READY=1      requests get responses, even if events are refused
    RELOADING=1  the configuration is being read again; READY=1 follows, even if the file is invalid
    STOPPING=1   draining
    WATCHDOG=1   the event loop runs; a coroutine sends it, because a thread would keep pinging while the loop hangs
    STATUS=...   one line for `systemctl status`
"""

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

PINGS_PER_TIMEOUT = 3  # one lost ping and one late ping are tolerated
LONGEST_PING_S = 1.0


class Manager:
    """The service manager. Without an address, nothing is sent."""

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
        """The manager that the environment names. Removes the variables, so no child process can notify it."""
        address = environ.pop("NOTIFY_SOCKET", "")
        timeout_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = timeout_us.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(timeout_us) / 1e6 if watched else 0.0)

    def ready(self) -> None:
        """Report READY=1. Further calls do nothing."""
        if not self._is_ready:
            self._change("READY=1")
        self._is_ready = True

    def reloading(self) -> None:
        """Call `reloaded` afterwards. Neither sends before `ready` or after `stopping`: READY=1 would be wrong then."""
        if self._is_ready:
            self._change(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        if self._is_ready:
            self._change("READY=1")

    def stopping(self) -> None:
        self._is_ready = False
        self._change("STOPPING=1")

    def ping(self) -> None:
        """Report that the event loop runs. Call it from the loop every `ping_every_s`."""
        if self._unsent:
            self._change()
        if self._watched:
            self._send("WATCHDOG=1")

    def status(self, line: str) -> None:
        """Show the line, unless it is already shown. Line breaks become spaces."""
        line = " ".join(line.split())  # a line break would start another variable
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def _change(self, *changes: str) -> None:
        """Send the changes, after any earlier ones that are still unsent."""
        self._unsent += changes
        while self._unsent and self._send(self._unsent[0]):
            del self._unsent[0]

    def _send(self, text: str) -> bool:
        """Send a notification. False if the queue was full and the caller may send it again."""
        if self._socket is None:
            return True
        try:
            self._socket.sendto(text.encode(), self._address)
        except BlockingIOError:
            return False
        except OSError as exc:
            log.warning("cannot notify the service manager: %s", exc)
        return True
