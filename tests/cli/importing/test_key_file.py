"""The file with the sender's key."""

from pathlib import Path

import pytest

from collector.cli.importing.key_file import read_key
from collector.daemon.resources import StartError
from collector.sender_keys import new_key
from tests.cli.in_process import Capture


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.touch(0o640)
    return path


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_key_is_the_line_without_its_end(end: bytes, file: Path, capsys: Capture) -> None:
    key = new_key()
    file.write_bytes(key.encode() + end)
    assert key == read_key(file)
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize(
    "content", [b"", b"\n", b" ", b"ck_a\nck_b", b"ck_a\n\n", b"ck_a b", b"ck_\xc3\xa9", b"ck_\x00", b"k" * 1_025]
)
def test_file_that_is_no_key_is_an_error(content: bytes, file: Path) -> None:
    """The message does not contain what is in the file."""
    file.write_bytes(content)
    with pytest.raises(StartError) as raised:
        read_key(file)
    assert f"{file}: should have one line: the first that `collector key` prints" == str(raised.value)


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read: No such file or directory"):
        read_key(tmp_path / "none")


def test_key_that_everyone_can_read_is_a_warning(file: Path, capsys: Capture) -> None:
    file.write_text("ck_a\n")
    file.chmod(0o644)
    assert "ck_a" == read_key(file)
    assert f"collector: {file}: every user of this machine can read the key; `chmod o-r` changes that\n" == (
        capsys.readouterr().err
    )
