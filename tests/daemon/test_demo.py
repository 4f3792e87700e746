"""Reading the demo: its limits, and errors that name the setting."""

import os
from pathlib import Path

import pytest

from collector.config import Tracker
from collector.config_file import ConfigError
from collector.daemon import demo
from collector.daemon.demo import MOST_BYTES, MOST_FILES, check_demo, read_demo


def error_of(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_demo(Tracker(demo_dir=str(folder)))
    (error,) = caught.value.errors
    return error


def test_no_setting_reads_nothing() -> None:
    assert {} == read_demo(Tracker())


def test_files_have_their_path_within_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop" / "a").mkdir(parents=True)
    (tmp_path / "shop" / "a" / "b.txt").write_bytes(b"b")
    (tmp_path / "shop" / "c.txt").write_bytes(b"c")
    monkeypatch.chdir(tmp_path)
    expected = {"a/b.txt": b"b", "c.txt": b"c"}
    assert expected == read_demo(Tracker(demo_dir="shop")) == read_demo(Tracker(demo_dir=str(tmp_path / "shop")))


def test_hidden_files_links_to_folders_and_devices_are_left_out(tmp_path: Path) -> None:
    """A link to a folder could lead around in circles."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"a")
    (folder / ".hidden").write_bytes(b"x")
    (folder / "circle").symlink_to(folder)
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "gone").symlink_to(tmp_path / "gone")
    assert {"a.txt": b"a"} == read_demo(Tracker(demo_dir=str(folder)))


@pytest.mark.parametrize("more", [0, 1])
def test_number_of_files_is_bounded(tmp_path: Path, more: int) -> None:
    for number in range(MOST_FILES + more):
        (tmp_path / f"{number}.txt").touch()
    if more:
        assert f"tracker.demo_dir: {tmp_path} is too large for a demo; it may have 100 files and 2 MB" == error_of(
            tmp_path
        )
    else:
        assert MOST_FILES == len(read_demo(Tracker(demo_dir=str(tmp_path))))


@pytest.mark.parametrize("more", [0, 1])
def test_size_of_the_files_is_bounded(tmp_path: Path, more: int) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "b.txt").write_bytes(bytes(MOST_BYTES - 1 + more))
    if more:
        assert "is too large for a demo" in error_of(tmp_path)
    else:
        assert MOST_BYTES == sum(map(len, read_demo(Tracker(demo_dir=str(tmp_path))).values()))


def test_error_names_the_folder_and_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    assert f"tracker.demo_dir: {folder} cannot be read: No such file or directory" == error_of(folder)
    folder.touch()
    assert f"tracker.demo_dir: {folder} cannot be read: Not a directory" == error_of(folder)


def test_error_of_the_check_says_where_the_setting_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, tracker = tmp_path / "collector.toml", Tracker(demo_dir=str(tmp_path / "gone"))
    for where in (str(file), "COLLECTOR__TRACKER__DEMO_DIR"):
        with pytest.raises(ConfigError, match=f"^{where}: tracker.demo_dir: .* cannot be read: No such file"):
            check_demo(file, tracker)
        monkeypatch.setenv("COLLECTOR__TRACKER__DEMO_DIR", tracker.demo_dir)


def test_file_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").touch()

    def broken(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "a.txt"))

    monkeypatch.setattr(demo, "_read", broken)
    assert f"tracker.demo_dir: {tmp_path / 'a.txt'} cannot be read: Permission denied" == error_of(tmp_path)


def test_links_are_left_out(tmp_path: Path) -> None:
    """They could lead to any file of the machine."""
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "index.html").write_text("x")
    (tmp_path / "secret").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret")
    assert {"index.html": b"x"} == read_demo(Tracker(demo_dir=str(folder)))


def test_name_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.html")).write_text("x")
    with pytest.raises(ConfigError) as raised:
        read_demo(Tracker(demo_dir=str(tmp_path)))
    assert r"\udcff.html" in raised.value.errors[0]
