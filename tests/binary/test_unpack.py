"""How the binary unpacks itself: once, completely, safe against other starts, and only where nobody else can write."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.binary.conftest import another_version
from tests.crash.conftest import need
from tests.crash.disk import mount
from tests.system.process import configure, serving, wait_until

ADVICE = "set COLLECTOR_UNPACK_DIR to another folder"


def call(binary: Path, *arguments: str, **options: object) -> tuple[int, str, str]:
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]
    return done.returncode, done.stdout, done.stderr


def unpack(binary: Path) -> Path:
    code, folder, errors = call(binary, "--unpack-only")
    assert (0, "") == (code, errors)
    return Path(folder.rstrip("\n"))


def runs(binary: Path) -> bool:
    return call(binary, "--version")[0] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need(os.geteuid() == 0, "root, to mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=20m,noexec", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_binary_unpacks_once_and_prints_the_folder(binary: Path, unpack_dir: Path) -> None:
    folder = unpack(binary)
    assert [folder] == list(unpack_dir.iterdir())
    before = folder.stat().st_ino
    assert folder == unpack(binary)
    assert before == folder.stat().st_ino
    assert 0o755 == folder.stat().st_mode & 0o7777


def test_every_user_can_run_the_unpacked_files_whatever_the_umask(binary: Path, unpack_dir: Path) -> None:
    assert 0 == call(binary, "--unpack-only", umask=0o077)[0]
    modes = {path.stat().st_mode & 0o7777 for path in unpack_dir.rglob("*")}
    assert {0o644, 0o755} == modes


def test_simultaneous_first_starts_all_succeed(binary: Path, unpack_dir: Path) -> None:
    started = [subprocess.Popen([binary, "--version"], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert 1 == len({process.communicate(timeout=60)[0] for process in started})
    assert [0] * 3 == [process.returncode for process in started]
    assert 1 == len(list(unpack_dir.iterdir()))


def test_next_start_deletes_the_files_of_a_killed_one(binary: Path, unpack_dir: Path) -> None:
    """A file size limit makes the kernel kill the first start while it unpacks."""
    # 1000 blocks of 512 or 1024 bytes, which depends on the shell
    limited = ["sh", "-c", 'ulimit -c 0; ulimit -f 1000 && exec "$0" --version', str(binary)]
    assert -signal.SIGXFSZ == subprocess.run(limited, check=False).returncode
    (half,) = unpack_dir.iterdir()
    assert runs(binary)
    assert not half.exists()
    assert 1 == len(list(unpack_dir.iterdir()))


@pytest.mark.parametrize("exists", [False, True], ids=["gone", "empty"])
def test_missing_and_short_files_are_unpacked_again(binary: Path, unpack_dir: Path, exists: bool) -> None:
    """A cleaner of /tmp deletes files, and a power cut leaves short ones."""
    folder = unpack(binary)
    file = folder / "app" / "collector" / "cli" / "main.pyc"
    file.unlink()
    if exists:
        file.touch()
    assert runs(binary)
    assert [folder] == list(unpack_dir.iterdir())


def test_unused_versions_are_deleted_and_other_folders_stay(binary: Path, unpack_dir: Path, tmp_path: Path) -> None:
    old = unpack(another_version(binary, tmp_path / "old"))
    (unpack_dir / "collector-of-somebody").mkdir()
    new = unpack(binary)
    assert old != new
    assert {new, unpack_dir / "collector-of-somebody"} == set(unpack_dir.iterdir())


@pytest.mark.usefixtures("unpack_dir")
def test_upgrade_keeps_the_code_of_a_running_version(binary: Path, tmp_path: Path) -> None:
    """After the new version has unpacked, a worker dies; the one that replaces it runs the old version."""
    command = another_version(binary, tmp_path / "collector")
    old = unpack(command)
    with serving(tmp_path, command=[str(command)], server={"workers": 2}) as process:
        another = tmp_path / "new"
        another.write_bytes(binary.read_bytes())
        another.chmod(0o755)
        another.replace(command)
        new = unpack(command)
        before = workers(process.popen.pid)
        os.kill(min(before), signal.SIGKILL)
        process.logged("replacing it at once")
        wait_until(lambda: process.log().count(" is serving") == 3, "the next worker serves")
        after = workers(process.popen.pid)
        assert (2, 1) == (len(after), len(after - before))
        assert {old / "bin" / "collector"} == {Path(f"/proc/{pid}/exe").readlink() for pid in after}
        assert after <= lock_holders(old)  # each has its own lock, as workers may outlive their supervisor
        assert 201 == process.post().status
        assert 0 == process.stop()
    assert {old, new} == set(new.parent.iterdir())


def workers(supervisor: int) -> set[int]:
    return set(map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()))


def lock_holders(folder: Path) -> set[int]:
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return {int(line[4]) for line in lines if line[1] == "FLOCK" and line[5].endswith(f":{folder.stat().st_ino}")}


def test_folder_that_others_can_write_to_is_refused(binary: Path, unpack_dir: Path) -> None:
    need(os.geteuid() == 0, "root, to give a folder away")
    folder = unpack(binary)
    os.chown(folder, 65534, 65534)
    message = f"collector: cannot use {folder}: others can write to it; remove it, or {ADVICE}\n"
    assert (1, "", message) == call(binary, "--version")
    os.chown(folder, 0, 0)
    folder.chmod(0o777)
    assert (1, "", message) == call(binary, "--version")


def test_place_that_others_can_write_to_is_refused_unless_sticky(binary: Path, unpack_dir: Path) -> None:
    unpack_dir.mkdir()
    unpack_dir.chmod(0o777)
    message = f"collector: cannot unpack into {unpack_dir}: others can write to it\n"
    assert (1, "", message) == call(binary, "--version")
    unpack_dir.chmod(0o1777)
    assert runs(binary)


def test_symlink_in_place_of_the_folder_is_refused(binary: Path, unpack_dir: Path, tmp_path: Path) -> None:
    folder = unpack(binary)
    folder.rename(tmp_path / "aside")
    folder.symlink_to(tmp_path / "aside")
    code, _, errors = call(binary, "--version")
    assert (1, True) == (code, errors.startswith(f"collector: cannot use {folder}: "))


def test_full_disk_gives_one_line_and_leaves_no_files(
    binary: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR_UNPACK_DIR", str(small_disk))
    code, _, errors = call(binary, "--version")
    assert (1, 1) == (code, errors.count("\n"))
    assert errors.endswith(f": No space left on device; {ADVICE}\n")
    assert [] == list(small_disk.iterdir())


def test_noexec_mount_gives_one_line(binary: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["mount", "-o", "remount,size=300m", small_disk], check=True)
    monkeypatch.setenv("COLLECTOR_UNPACK_DIR", str(small_disk))
    code, _, errors = call(binary, "--version")
    assert (1, 1) == (code, errors.count("\n"))
    assert errors.endswith(f"Permission denied (mounted noexec?); {ADVICE}\n")


def test_places_are_tried_in_order_and_unusable_ones_skipped(binary: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    names = ("COLLECTOR_UNPACK_DIR", "CACHE_DIRECTORY", "XDG_CACHE_HOME", "HOME", "TMPDIR")
    places = {name: str(tmp_path / name) for name in names}
    for name in names:
        code, folder, _ = call(binary, "--unpack-only", env=places)
        assert (0, Path(places[name], ".cache" if name == "HOME" else "")) == (code, Path(folder).parent)
        places[name] = f"{plain}/below"  # like the HOME of a service user, which often does not exist
        if name == "COLLECTOR_UNPACK_DIR":
            assert 1 == call(binary, "--unpack-only", env=places)[0]  # if set, this one must work
            del places[name]


@pytest.mark.usefixtures("unpack_dir")
def test_environment_and_working_directory_do_not_change_the_code(binary: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    hostile = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    (tmp_path / "libz.so.1").write_text("no library")
    assert 0 == call(binary, "--version", env=hostile, cwd=tmp_path)[0]


@pytest.mark.usefixtures("unpack_dir")
def test_damaged_binary_is_reported(binary: Path, tmp_path: Path) -> None:
    content = bytearray(binary.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    damaged.chmod(0o755)
    code, _, errors = call(damaged, "--version")
    assert (1, True) == (code, errors.startswith("collector: this file is damaged: "))


@pytest.mark.usefixtures("unpack_dir")
def test_binary_starts_with_closed_standard_input(binary: Path, tmp_path: Path) -> None:
    configure(tmp_path)
    closed = ["sh", "-c", 'exec "$0" check-config collector.toml <&-', str(binary)]
    assert 0 == subprocess.run(closed, cwd=tmp_path, timeout=60, check=False).returncode
