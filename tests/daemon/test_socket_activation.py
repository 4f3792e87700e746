"""Listening sockets that a service manager passes."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from collector.config_file import ConfigError
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
        ("http", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "is not TCP"),
        ("http", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), "is not TCP"),
        ("http", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "does not listen"),
    ],
)
def test_unusable_socket_is_a_configuration_error(
    passed: Passed, names: str, make: Callable[[], socket.socket], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        inherited(passed(names, make()), FIRST)


def test_two_sockets_of_one_name_are_a_configuration_error(passed: Passed) -> None:
    with pytest.raises(ConfigError, match="was passed before"):
        inherited(passed("http:http", tcp(), tcp()), FIRST)
