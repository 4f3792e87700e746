"""Notifications to the service manager, whatever state it is in."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from collector.daemon.sd_notify import Manager


class Listener:
    """The manager's end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def received(self) -> list[str]:
        """The notifications since the last call."""
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
    monkeypatch.chdir(tmp_path)  # the address of a Unix socket has at most 107 characters
    made = Listener("notify")
    yield made
    made.close()


@pytest.fixture
def manager(listener: Listener) -> Iterator[Manager]:
    with closed(Manager("notify", watchdog_s=30)) as made:
        yield made


@contextmanager
def closed(manager: Manager) -> Iterator[Manager]:
    """Close its socket afterwards. A collector keeps it until the process ends."""
    try:
        yield manager
    finally:
        assert manager._socket is not None
        manager._socket.close()


def test_state_changes_are_reported_in_order(manager: Manager, listener: Listener) -> None:
    manager.ready()
    manager.ready()
    manager.reloading()
    manager.reloaded()
    manager.stopping()
    ready, reloading, *others = listener.received()
    assert "READY=1" == ready
    assert ["RELOADING=1", "MONOTONIC_USEC"] == [reloading.split("\n")[0], reloading.split("\n")[1].split("=")[0]]
    assert ["READY=1", "STOPPING=1"] == others


@pytest.mark.parametrize("stopped", [True, False])
def test_reload_does_not_report_ready_before_start_or_after_stop(
    manager: Manager, listener: Listener, stopped: bool
) -> None:
    if stopped:
        manager.ready()
        manager.stopping()
        listener.received()
    manager.reloading()
    manager.reloaded()
    assert [] == listener.received()


def test_status_is_sent_when_it_changes_and_is_one_line(manager: Manager, listener: Listener) -> None:
    for line in ("one", "one", "two\nMAINPID=1", "one"):
        manager.status(line)
    assert ["STATUS=one", "STATUS=two MAINPID=1", "STATUS=one"] == listener.received()


def test_state_change_that_finds_the_queue_full_is_sent_with_the_next_ping(
    manager: Manager, listener: Listener
) -> None:
    """Pings and status lines are dropped: others will follow."""
    filled = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with suppress(BlockingIOError):
            while other.sendto(b"fills the queue", "notify"):
                filled += 1
    manager.ping()
    manager.status("lost")
    manager.ready()
    manager.stopping()
    assert filled * ["fills the queue"] == listener.received()
    manager.ping()
    assert ["READY=1", "STOPPING=1", "WATCHDOG=1"] == listener.received()
    manager.status("lost")
    assert ["STATUS=lost"] == listener.received()


def test_manager_that_is_gone_is_only_logged(
    manager: Manager, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    listener.close()
    manager.ready()
    Path("notify").unlink()
    manager.ping()
    assert "cannot notify the service manager: Connection refused" in caplog.text.replace("[Errno 111] ", "")


def test_manager_can_listen_on_an_abstract_address() -> None:
    name = f"collector-test-{os.getpid()}"
    listener = Listener(f"\0{name}")
    with closed(Manager(f"@{name}")) as manager:
        manager.ready()
    assert ["READY=1"] == listener.received()
    listener.close()


def test_without_a_manager_nothing_is_sent() -> None:
    manager = Manager.of({})
    for say in (manager.ready, manager.reloading, manager.reloaded, manager.ping, manager.stopping):
        say()
    manager.status("not sent")


@pytest.mark.parametrize(
    ("pid", "pinged"),
    [(str(os.getpid()), True), ("", True), (str(os.getppid()), False)],
    ids=["mine", "any", "another"],
)
def test_environment_says_which_process_pings_and_how_often(listener: Listener, pid: str, pinged: bool) -> None:
    """The variables are removed: a worker that pinged for its supervisor would hide that the supervisor hangs."""
    environ = {"NOTIFY_SOCKET": "notify", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": pid, "HOME": "/"}
    with closed(Manager.of(environ)) as manager:
        assert {"HOME": "/"} == environ
        manager.ping()
    expected: tuple[float, list[str]] = (0.5, ["WATCHDOG=1"]) if pinged else (1.0, [])
    assert expected == (manager.ping_every_s, listener.received())
