"""Listening sockets that a service manager passes."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from collector.config import Server
from collector.config_file import ConfigError
from collector.daemon.public_sockets import public_sockets
from collector.daemon.resources import listen
from collector.daemon.socket_activation import inherited

FIRST = 700  # a descriptor that nothing else in the test's process uses

Passed = Callable[..., dict[str, str]]


@pytest.fixture
def passed() -> Iterator[Passed]:
    """Put sockets where a manager would, and return the environment that describes them."""
    used: list[int] = []

    def put(names: str, *sockets: socket.socket, **changes: str) -> dict[str, str]:
        for number, given in enumerate(sockets, FIRST):
            os.dup2(given.fileno(), number, inheritable=True)
            used.append(number)
            given.close()
        variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names}
        return {"HOME": "/"} | variables | changes

    yield put
    for number in used:
        with suppress(OSError):
            os.close(number)


def tcp() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def unix(folder: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(folder / f"{len(list(folder.iterdir()))}.sock"))
    bound.listen()
    return bound


def test_socket_is_found_by_its_name_and_not_inherited_by_children(passed: Passed) -> None:
    environ = passed("admin:http", tcp(), tcp())
    found = inherited(environ, FIRST)
    assert {"HOME": "/"} == environ
    assert {"admin": FIRST, "server": FIRST + 1} == {section: each.fileno() for section, each in found.items()}
    for each in found.values():
        assert not each.get_inheritable()
        assert not each.getblocking()
        each.close()


def test_passed_socket_is_used_whatever_the_configuration_says(
    passed: Passed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = inherited(passed("http", tcp()), FIRST)
    with listen("no.such.host", 1, "server", found) as bound:
        assert FIRST == bound.fileno()
    assert "server: using the service manager's socket, not no.such.host:1" in caplog.text


@pytest.mark.parametrize("changes", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "x"}])
def test_sockets_of_another_process_are_left_alone(passed: Passed, changes: dict[str, str]) -> None:
    environ = passed("http", tcp(), **changes)
    assert {} == inherited(environ, FIRST)
    assert {"HOME": "/"} == environ
    os.fstat(FIRST)


@pytest.mark.parametrize(
    ("names", "make", "problem"),
    [
        ("collector.socket", tcp, "should be named http or admin"),
        ("", tcp, "should be named"),
        ("http", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "is neither TCP nor a Unix stream socket"),
        ("http", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "is neither TCP nor a Unix stream socket"),
        ("http", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), "does not listen"),
        ("admin", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), "is not TCP"),
        ("http", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "does not listen"),
    ],
)
def test_unusable_socket_is_a_configuration_error(
    passed: Passed, names: str, make: Callable[[], socket.socket], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        inherited(passed(names, make()), FIRST)


@pytest.mark.parametrize("kind", [socket.AF_INET, socket.AF_UNIX])
def test_two_sockets_of_one_name_and_kind_are_a_configuration_error(
    passed: Passed, kind: socket.AddressFamily, tmp_path: Path
) -> None:
    make = tcp if kind == socket.AF_INET else partial(unix, tmp_path)
    with pytest.raises(ConfigError, match=r"is the second of its kind; one ListenStream= for (TCP|Unix) is enough"):
        inherited(passed("http:http", make(), make()), FIRST)


def test_public_listener_may_be_a_tcp_and_a_unix_socket(passed: Passed, tmp_path: Path) -> None:
    """One unit with two ListenStream= passes both under one name."""
    found = inherited(passed("http:admin:http", unix(tmp_path), tcp(), tcp()), FIRST)
    assert {"unix_socket": FIRST, "admin": FIRST + 1, "server": FIRST + 2} == {
        key: each.fileno() for key, each in found.items()
    }
    settings = Server(host="no.such.host", unix_socket=str(tmp_path / "other.sock"))
    with found["admin"], public_sockets(settings, found) as public:
        assert [FIRST + 2, FIRST] == [each.fileno() for each in public]
    assert not (tmp_path / "other.sock").exists()
    assert 1 == len(list(tmp_path.iterdir())), "the file is the manager's, and stays"
