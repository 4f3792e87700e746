"""The sockets for clients: which ones are opened, and what may be at the path of a Unix socket."""

import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from collector.config import Server
from collector.daemon.public_sockets import listening_at, public_sockets
from collector.daemon.resources import StartError, url
from collector.daemon.socket_activation import UNIX_SOCKET
from tests.crash.conftest import need


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative to the working directory, so that it is short enough."""
    monkeypatch.chdir(tmp_path)
    return Path("a.sock")


def listening(path: Path, backlog: int = 8) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    bound.listen(backlog)
    return bound


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def refused(path: Path, mode: int = 0o660) -> str:
    """The error of the attempt to listen there."""
    with pytest.raises(StartError) as raised, listening_at(path, mode):
        pass
    return str(raised.value)


def test_each_setting_opens_its_socket(path: Path) -> None:
    for host, unix_socket, kinds in (
        ("127.0.0.1", "", [socket.AF_INET]),
        ("", str(path), [socket.AF_UNIX]),
        ("127.0.0.1", str(path), [socket.AF_INET, socket.AF_UNIX]),
    ):
        with public_sockets(Server(host=host, port=0, unix_socket=unix_socket), {}) as public:
            assert kinds == [each.family for each in public]
            assert all(not each.getblocking() for each in public)
            if unix_socket:
                assert f"unix:{path.absolute()}" == url(public[-1])
        assert not path.exists()


@pytest.mark.parametrize("inherits", [False, True])
@pytest.mark.parametrize("trusted", [(), ("unix",)])
def test_start_says_that_clients_have_no_address(
    path: Path, caplog: pytest.LogCaptureFixture, inherits: bool, trusted: tuple[str, ...]
) -> None:
    """Also if the service manager passes the socket, of which the settings say nothing."""
    settings = Server.model_validate(
        {"host": "", "unix_socket": "" if inherits else "a.sock", "trusted_proxies": trusted}
    )
    with public_sockets(settings, {UNIX_SOCKET: listening(path)} if inherits else {}):
        assert ("have no address" in caplog.text) is not bool(trusted)


def test_nothing_to_listen_on_is_an_error() -> None:
    with (
        pytest.raises(StartError, match=r"set server\.host or server\.unix_socket"),
        public_sockets(Server(host=""), {}),
    ):
        pass


def test_socket_leaves_no_file_if_the_other_one_cannot_be_opened(path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Server(port=taken.getsockname()[1], unix_socket=str(path))
        with pytest.raises(StartError, match="Address already in use"), public_sockets(settings, {}):
            pass
    assert not path.exists()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o660, 0o600, 0o666])
def test_file_has_the_mode_whatever_the_umask(path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with listening_at(path, mode):
            assert (True, mode) == (stat.S_ISSOCK(path.stat().st_mode), stat.S_IMODE(path.stat().st_mode))
        assert umask == os.umask(umask)
    finally:
        os.umask(before)


def test_socket_of_a_killed_process_is_replaced(path: Path) -> None:
    listening(path).close()  # its file stays
    assert not connects(path)
    with listening_at(path, 0o660):
        assert connects(path)
    assert not path.exists()


def test_socket_on_which_another_process_listens_is_kept(path: Path) -> None:
    with listening(path):
        assert "another process listens there" in refused(path)
        assert connects(path)


def test_full_queue_counts_as_listening_and_does_not_block(path: Path) -> None:
    with listening(path, backlog=0), ExitStack() as opened:
        while True:
            waiting = opened.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            if waiting.connect_ex(str(path)):
                break
        ended = threading.Event()

        def attempt() -> None:
            assert "another process listens there" in refused(path)
            ended.set()

        threading.Thread(target=attempt, daemon=True).start()
        assert ended.wait(30)
    assert path.exists()


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _link_to_a_dead_socket(path: Path) -> None:
    listening(Path("dead.sock")).close()
    path.symlink_to("dead.sock")


@pytest.mark.parametrize(
    "make",
    [Path.touch, Path.mkdir, os.mkfifo, _dangling, _link_to_a_dead_socket],
    ids=["file", "folder", "pipe", "dangling link", "link"],
)
def test_anything_else_is_kept(path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    before = path.lstat()
    assert "no socket is there" in refused(path)
    assert before == path.lstat()


def test_socket_of_another_type_is_kept(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert "it is not known whether another process listens there" in refused(path)
        assert path.exists()


def test_socket_that_may_not_be_connected_to_is_kept() -> None:
    need(os.getuid() == 0, "root")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.sock"
        listening(path).close()
        path.chmod(0)
        Path(folder).chmod(0o777)
        os.seteuid(65534)
        try:
            assert "it is not known whether another process listens there: Permission denied" in refused(path)
        finally:
            os.seteuid(0)
        assert path.exists()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("missing/a.sock", "missing does not exist"),
        ("file/a.sock", "Not a directory"),
        ("x" * 200, "the absolute path has more than 107 bytes"),
    ],
)
def test_path_that_cannot_be_used_is_an_error(path: Path, name: str, error: str) -> None:
    (path.parent / "file").touch()
    assert error in refused(Path(name))


def test_only_its_own_file_is_removed(path: Path) -> None:
    """Another process may have replaced it."""
    with listening_at(path, 0o660):
        path.unlink()
        other = listening(path)
    with other:
        assert connects(path)


def test_file_with_its_number_is_not_removed(path: Path) -> None:
    """During the drain nothing holds the file's number. ext4 gives it to the next file."""
    with listening_at(path, 0o660) as bound:
        bound.close()
        path.unlink()
        other = listening(path)
    with other:
        assert connects(path)


def test_file_whose_mode_was_changed_is_removed(path: Path) -> None:
    with listening_at(path, 0o660):
        path.chmod(0o666)
    assert not path.exists()


def test_relative_path_without_a_working_directory_is_an_error(path: Path) -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").rmdir()
    assert "the working directory no longer exists" in refused(path)


def test_file_is_removed_from_another_working_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = path.absolute()
    with listening_at(path, 0o660):
        monkeypatch.chdir("/")
    assert not found.exists()
