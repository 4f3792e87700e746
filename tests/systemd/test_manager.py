"""The real process under a simulated service manager: its notifications, and its use of passed sockets."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import body, read_rows
from tests.system import wire
from tests.system.process import COMMAND, READY_S, STOP_S, configure, environment, wait_until

PING_S = 0.1  # a third of the watchdog's timeout

# A collector whose event loop blocks once the file `stop` exists; its other threads continue.
STUCK = """
import sys, threading, time
from pathlib import Path
from collector.cli import main
from collector.daemon import status
status.REFRESH_S = 0.05
refresh = status.Reporter.refresh
here = Path.cwd()  # the collector changes to data_dir later
async def stuck(self):
    if (here / "stop").exists():
        threading.Thread(target=(here / "stopped").touch).start()
        time.sleep(3600)
    await refresh(self)
status.Reporter.refresh = stuck
sys.exit(main.main(sys.argv[1:]))
"""

# A manager's work between fork and exec: the sockets become descriptors 3 and 4, and LISTEN_PID the process's pid.
PASS = """
import fcntl, os, sys
copies = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number)
    os.close(copy)
os.execvpe(sys.argv[3], sys.argv[3:], os.environ | {"LISTEN_PID": str(os.getpid())})
"""


class Service:
    """A collector, and the notifications that it has sent."""

    def __init__(self, popen: subprocess.Popen[bytes], notify: socket.socket, folder: Path) -> None:
        self.popen = popen
        self.folder = folder
        self.received: list[str] = []
        self._notify = notify

    def listen(self) -> list[str]:
        while True:
            try:
                self.received.append(self._notify.recv(4096).decode())
            except BlockingIOError:
                return self.received

    def says(self, pattern: str) -> None:
        wait_until(
            lambda: any(re.match(pattern, said) for said in self.listen()), f"it says {pattern}: {self.received}"
        )

    def changes(self) -> list[str]:
        """Its state changes, in order."""
        return [said.split("\n")[0] for said in self.listen() if not said.startswith(("WATCHDOG", "STATUS"))]

    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def stop(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(STOP_S)


@contextmanager
def service(
    folder: Path, *sockets: socket.socket, command: Sequence[str] = COMMAND, workers: int = 1, **sections: object
) -> Iterator[Service]:
    """A collector that has reported to be ready."""
    address = f"collector-test-{os.getpid()}"
    configure(folder, server={"port": 0, "workers": workers})
    variables = {"NOTIFY_SOCKET": f"@{address}", "WATCHDOG_USEC": str(round(3e6 * PING_S))}
    prefix: list[str] = []
    if sockets:
        variables |= {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "http:admin"}
        prefix = [sys.executable, "-c", PASS, *(str(passed.fileno()) for passed in sockets)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, (folder / "stderr").open("ab") as log:
        notify.bind(f"\0{address}")
        notify.setblocking(False)
        popen = subprocess.Popen(
            [*prefix, *command, "serve", "--config", str(folder / "collector.toml")],
            cwd=folder,
            env=environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[passed.fileno() for passed in sockets],
        )
        try:
            started = Service(popen, notify, folder)
            started.says("READY=1")
            yield started
        finally:
            if popen.poll() is None:
                popen.kill()
            popen.wait(STOP_S)


@pytest.mark.parametrize("workers", [1, 2])
def test_manager_is_notified_of_start_reload_and_stop(tmp_path: Path, workers: int) -> None:
    with service(tmp_path, workers=workers) as started:
        assert re.search(r"listening on|worker \d is serving", started.log()), "it is ready once it serves"
        started.says(r"STATUS=receiving 0/s, 0 segments, ")
        started.says("WATCHDOG=1")
        started.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: "reloaded" in started.log(), "the log reports the reload")
        wait_until(
            lambda: ["READY=1", "RELOADING=1", "READY=1"] == started.changes(), "the manager is notified of the reload"
        )
        (tmp_path / "collector.toml").write_text("[sites]")
        started.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: 5 == len(started.changes()), "a reload of a bad file ends too")
        assert 0 == started.stop()
        assert "STOPPING=1" == started.changes()[-1]
        started.says("STATUS=draining: 0 requests in flight, 0 events to publish")


@pytest.mark.parametrize("workers", [1, 2])
def test_pings_stop_when_the_event_loop_blocks(tmp_path: Path, workers: int) -> None:
    """Its threads continue. No ping arrives in the time of twenty."""
    with service(tmp_path, command=(sys.executable, "-c", STUCK), workers=workers) as started:
        started.says("WATCHDOG=1")
        (tmp_path / "stop").touch()
        wait_until((tmp_path / "stopped").exists, "the loop blocks while a thread runs")
        before = started.listen().count("WATCHDOG=1")
        time.sleep(20 * PING_S)
        assert before == started.listen().count("WATCHDOG=1")
        started.popen.send_signal(signal.SIGABRT)
        assert -signal.SIGABRT == started.popen.wait(STOP_S)
        assert "in stuck" in started.log(), "the log shows where the loop blocked"


@pytest.mark.parametrize("workers", [1, 2])
def test_connection_between_two_collectors_is_served_by_the_next(tmp_path: Path, workers: int) -> None:
    """The manager, here the test, keeps the sockets open, so no connection is lost even if the first one is killed."""
    ids: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as public, socket.create_server(("127.0.0.1", 0)) as admin:
        for ended in (signal.SIGTERM, signal.SIGKILL):
            with service(tmp_path, public, admin, workers=workers) as started:
                started.popen.send_signal(ended)
                started.popen.wait(STOP_S)
            waiting = [socket.create_connection(public.getsockname(), timeout=READY_S) for _ in range(5)]
            for connection in waiting:
                ids.append(f"s-{len(ids)}")
                connection.sendall(wire.request("demo", body(session_id=ids[-1])))
            with service(tmp_path, public, admin, workers=workers) as started:
                for connection in waiting:
                    assert b"HTTP/1.1 201" == connection.recv(12)
                    connection.close()
                assert 0 == started.stop()
    assert sorted(ids) == sorted(row["session_id"] for row in read_rows(tmp_path / "data" / "events"))


def test_worker_inherits_neither_the_managers_variables_nor_the_admin_socket(tmp_path: Path) -> None:
    """With the variables it could send notifications in the supervisor's place."""
    with (
        socket.create_server(("127.0.0.1", 0)) as public,
        socket.create_server(("127.0.0.1", 0)) as admin,
        service(tmp_path, public, admin, workers=2) as started,
    ):
        task = Path(f"/proc/{started.popen.pid}/task/{started.popen.pid}/children")
        for pid in task.read_text().split():
            variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            assert [] == [name for name in variables if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))]
            inodes = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
            assert f"socket:[{os.fstat(public.fileno()).st_ino}]" in inodes
            assert f"socket:[{os.fstat(admin.fileno()).st_ino}]" not in inodes
        assert 0 == started.stop()
