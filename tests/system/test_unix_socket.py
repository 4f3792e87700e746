"""The real collector behind a Unix socket, alone or beside a port, with one worker and with several."""

import http.client
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support import body
from tests.system.process import Answer, Process, configure, run, serving, wait_until

WORKERS = pytest.mark.parametrize("workers", [1, 2])
FORWARDED = {"X-Forwarded-For": "1.1.1.1, 203.0.113.9"}


class UnixConnection(http.client.HTTPConnection):
    """A connection to the socket at a path."""

    def __init__(self, path: Path) -> None:
        super().__init__("collector.example", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def post(path: Path, session_id: str = "s-1", headers: dict[str, str] | None = None) -> Answer:
    connection = UnixConnection(path)
    try:
        data = body(session_id=session_id)
        connection.request("POST", "/public/demo/analytics/collect", data, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def server(workers: int = 1, host: str = "", **changes: Any) -> dict[str, Any]:
    return {"host": host, "port": 0, "workers": workers, "unix_socket": "collector.sock", **changes}


@contextmanager
def behind(folder: Path, *, privacy: str = "full", **settings: Any) -> Iterator[tuple[Process, Path]]:
    """A collector, and the path of its socket."""
    with serving(folder, server=server(**settings), privacy={"client_ip": privacy}) as process:
        yield process, folder / "collector.sock"


@WORKERS
def test_socket_takes_events_in_the_place_of_a_port(tmp_path: Path, workers: int) -> None:
    with behind(tmp_path, workers=workers) as (process, path):
        assert f"unix:{path}" == process.url
        assert (True, 0o660) == (stat.S_ISSOCK(path.stat().st_mode), stat.S_IMODE(path.stat().st_mode))
        for number in range(20):
            assert 201 == post(path, f"s-{number}").status
        assert 0 == process.stop()
        assert not path.exists()
    rows = process.rows()
    assert {f"s-{number}" for number in range(20)} == {row["session_id"] for row in rows}
    assert {None} == {row["client_ip"] for row in rows}


@WORKERS
def test_socket_beside_a_port(tmp_path: Path, workers: int) -> None:
    with behind(tmp_path, host="127.0.0.1", workers=workers) as (process, path):
        assert f"listening on {process.url} and unix:{path}" in process.log()
        assert (201, 201) == (post(path, "unix").status, process.post().status)
        assert 0 == process.stop()
    assert {None, "127.0.0.1"} == {row["client_ip"] for row in process.rows()}


@pytest.mark.parametrize("policy", ["none", "truncate", "hash", "full"])
@pytest.mark.parametrize("trusted", [[], ["unix"]])
def test_clients_have_the_address_that_a_trusted_proxy_gives(tmp_path: Path, policy: str, trusted: list[str]) -> None:
    with behind(tmp_path, privacy=policy, trusted_proxies=trusted) as (process, path):
        assert 201 == post(path, headers=FORWARDED).status
        assert 0 == process.stop()
    (row,) = process.rows()
    known = {"none": None, "truncate": "203.0.113.0", "full": "203.0.113.9"}
    if trusted and policy == "hash":
        assert 32 == len(row["client_ip"])
    else:
        assert (known[policy] if trusted else None) == row["client_ip"]


@pytest.mark.parametrize("trusted", [False, True])
def test_clients_without_an_address_share_a_bucket(tmp_path: Path, trusted: bool) -> None:
    settings = server(trusted_proxies=["unix"] if trusted else [])
    with serving(tmp_path, server=settings, rate_limit={"requests_per_minute": 1, "burst": 2}) as process:
        path = tmp_path / "collector.sock"
        addresses = ["203.0.113.1", "203.0.113.2", "203.0.113.3"]
        found = [post(path, headers={"X-Forwarded-For": address}).status for address in addresses]
        assert found == ([201, 201, 201] if trusted else [201, 201, 429])
        assert 0 == process.stop()


@WORKERS
def test_next_start_replaces_the_socket_of_a_killed_collector(tmp_path: Path, workers: int) -> None:
    with behind(tmp_path, workers=workers) as (process, path):
        assert 201 == post(path, "before").status
        process.send_signal(signal.SIGKILL)
        process.exit_code()
        assert path.exists()
    with behind(tmp_path, workers=workers) as (process, path):
        assert 201 == post(path, "after").status
        assert 0 == process.stop()
    assert ["after", "before"] == sorted(row["session_id"] for row in process.rows())


@WORKERS
def test_path_that_is_taken_exits_1_with_one_line_and_stays(tmp_path: Path, workers: int) -> None:
    file = configure(tmp_path, server=server(workers))
    (tmp_path / "collector.sock").write_text("kept")
    ended = run("serve", "--config", file, folder=tmp_path)
    assert (1, 1) == (ended.returncode, len(ended.stderr.splitlines())), ended.stderr
    assert "collector.sock: a file that is no socket is there" in ended.stderr
    assert "kept" == (tmp_path / "collector.sock").read_text()


def test_other_collector_on_the_path_stays(tmp_path: Path) -> None:
    with behind(tmp_path) as (process, path):
        other = tmp_path / "other"
        other.mkdir()
        file = configure(other, server=server(unix_socket=str(path)))
        ended = run("serve", "--config", file, folder=other)
        assert (1, True) == (ended.returncode, "another process listens there" in ended.stderr)
        assert 201 == post(path).status
        assert 0 == process.stop()


def test_nothing_to_listen_on_exits_1_with_one_line(tmp_path: Path) -> None:
    ended = run("serve", "--config", configure(tmp_path, server={"host": ""}), folder=tmp_path)
    assert (1, 1) == (ended.returncode, len(ended.stderr.splitlines()))
    assert "there is nothing to listen on: set server.host or server.unix_socket" in ended.stderr


@WORKERS
def test_restarts_under_load_lose_no_acknowledged_event(tmp_path: Path, workers: int) -> None:
    """A client meets a collector, or a socket on which nobody listens: never one that takes events and forgets them."""
    numbers, stop = count(), threading.Event()
    sent: set[str] = set()
    acked: set[str] = set()
    path = tmp_path / "collector.sock"

    def send() -> None:
        while not stop.is_set():
            session_id = f"s-{next(numbers)}"
            sent.add(session_id)
            try:
                if post(path, session_id).status == 201:
                    acked.add(session_id)
            except (OSError, http.client.HTTPException):
                stop.wait(0.01)  # between two collectors

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            with behind(tmp_path, workers=workers) as (process, _):
                enough = len(acked) + 100
                wait_until(lambda enough=enough: len(acked) >= enough, "100 events are acknowledged")  # type: ignore[misc]
                process.send_signal(number)
                process.exit_code()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    with behind(tmp_path, workers=workers) as (process, _):
        assert 0 == process.stop()
    stored = [row["session_id"] for row in process.rows()]
    assert len(stored) == len(set(stored))
    assert acked <= set(stored) <= sent
