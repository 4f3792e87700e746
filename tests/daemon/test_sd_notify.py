"""What the service manager is told, whatever state it is in."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.daemon.sd_notify import Manager


class Listener:
    """The manager's end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """What has come since it was last asked."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.chdir(tmp_path)  # an address has at most 107 letters
    made = Listener("notify")
    yield made
    made.close()


@pytest.fixture
def manager(listener: Listener) -> Iterator[Manager]:
    with closed(Manager("notify", watchdog_s=30)) as made:
        yield made


@contextmanager
def closed(manager: Manager) -> Iterator[Manager]:
    """A collector has its manager until it ends."""
    try:
        yield manager
    finally:
        assert manager._socket is not None
        manager._socket.close()


def test_life_of_a_service_is_told_in_order(manager: Manager, listener: Listener) -> None:
    manager.ready()
    manager.ready()
    manager.reloading()
    manager.reloaded()
    manager.stopping()
    ready, reloading, *others = listener.heard()
    assert "READY=1" == ready
    assert ["RELOADING=1", "MONOTONIC_USEC"] == [reloading.split("\n")[0], reloading.split("\n")[1].split("=")[0]]
    assert ["READY=1", "STOPPING=1"] == others


@pytest.mark.parametrize("stopped", [True, False])
def test_reload_makes_nobody_ready_who_is_not(manager: Manager, listener: Listener, stopped: bool) -> None:
    if stopped:
        manager.ready()
        manager.stopping()
        listener.heard()
    manager.reloading()
    manager.reloaded()
    assert [] == listener.heard()


def test_status_is_sent_when_it_changes_and_is_one_line(manager: Manager, listener: Listener) -> None:
    for line in ("one", "one", "two\nMAINPID=1", "one"):
        manager.status(line)
    assert ["STATUS=one", "STATUS=two MAINPID=1", "STATUS=one"] == listener.heard()


def test_change_that_finds_the_queue_full_is_sent_with_the_next_ping(manager: Manager, listener: Listener) -> None:
    """Pings and status lines are not: there will be others."""
    manager.ping()
    filled = 1
    while manager._send("WATCHDOG=1"):
        filled += 1
    manager.ping()
    manager.status("lost")
    manager.ready()
    manager.stopping()
    assert filled * ["WATCHDOG=1"] == listener.heard()
    manager.ping()
    assert ["READY=1", "STOPPING=1", "WATCHDOG=1"] == listener.heard()
    manager.status("lost")
    assert ["STATUS=lost"] == listener.heard()


def test_manager_that_is_gone_costs_nobody_anything(
    manager: Manager, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.close()
    manager.ready()
    Path("notify").unlink()
    manager.ping()
    assert "the service manager cannot be told: Connection refused" in caplog.text.replace("[Errno 111] ", "")


def test_manager_may_listen_on_an_abstract_address() -> None:
    name = f"collector-test-{os.getpid()}"
    listener = Listener(f"\0{name}")
    with closed(Manager(f"@{name}")) as manager:
        manager.ready()
    assert ["READY=1"] == listener.heard()
    listener.close()


def test_without_a_manager_nothing_is_sent() -> None:
    manager = Manager.of({})
    for say in (manager.ready, manager.reloading, manager.reloaded, manager.ping, manager.stopping):
        say()
    manager.status("nobody reads it")


@pytest.mark.parametrize(
    ("pid", "pinged"),
    [(str(os.getpid()), True), ("", True), (str(os.getppid()), False)],
    ids=["mine", "any", "another"],
)
def test_environment_says_who_is_to_ping_and_how_often(listener: Listener, pid: str, pinged: bool) -> None:
    """It is empty afterwards: a worker that spoke for the supervisor would hide that it hangs."""
    environ = {"NOTIFY_SOCKET": "notify", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": pid, "HOME": "/"}
    with closed(Manager.of(environ)) as manager:
        assert {"HOME": "/"} == environ
        manager.ping()
    assert (0.5, ["WATCHDOG=1"]) if pinged else (1.0, []) == (manager.ping_every_s, listener.heard())
