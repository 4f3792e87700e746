"""Files that are not what their names say: commands ignore them, or end with one line that says why."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.crash.conftest import need
from tests.system.process import COMMAND, READY_S, configure, environment, run, serving

SEGMENT = "20260528T202640Z-0123456789abcdef.segment"
SITE = '[sites.demo]\n[server]\nport = 0\n[admin]\nport = 0\n[storage]\ndata_dir = "{}"\nmin_free_bytes = 0\n'
NAMES = (f"journal/0/{SEGMENT}", "journal/pipe", f"journal/1/{SEGMENT}/a", "staging/pipe", "quarantine/pipe")
PARTS = ("events/site=demo/date=2026-01-01/x.parquet", "rejected/site=demo/date=2026-01-01/x.parquet")


@pytest.fixture
def pipes(tmp_path: Path) -> Path:
    """A folder with a configuration, and pipes without a writer all over its data_dir."""
    for name in (*NAMES, *PARTS):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / "data" / name)
    configure(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [("check-config", "collector.toml"), ("recover",), ("doctor",), ("expire", "--older-than", "1d")],
    ids=lambda arguments: arguments[0],
)
def test_command_does_not_wait_for_pipes_in_the_data_dir(arguments: tuple[str, ...], pipes: Path) -> None:
    assert 0 == run(*arguments, folder=pipes).returncode


@pytest.mark.parametrize("partition_by", [["site", "date"], ["date"]], ids="/".join)
def test_collector_serves_despite_pipes_in_its_data_dir(partition_by: list[str], pipes: Path) -> None:
    for part in PARTS:
        (pipes / "data" / part).unlink()  # these count as parts of one layout, and the other setting refuses them
    storage = {"data_dir": pipes / "data", "min_free_bytes": 0, "partition_by": partition_by}
    with serving(pipes, storage=storage) as process:
        assert 201 == process.post().status
        assert 0 == process.stop()
    assert (pipes / "data" / NAMES[0]).is_fifo()


# The path of a configuration, and why it cannot be read.
ODD_CONFIGURATIONS = {
    "folder": "cannot be read: Is a directory",
    "pipe": "sites: missing; at least one site is needed",
    "socket": "cannot be read: No such device or address",
    "nothing": "cannot be read: No such file or directory",
    "link": "cannot be read: No such file or directory",
    "loop": "cannot be read: Too many levels of symbolic links",
    "x" * 300: "cannot be read: File name too long",
    "/dev/zero": "is larger than 64 MB, the limit for a configuration",
    "junk": "is not TOML: ",
    "forbidden": "cannot be read: Permission denied",
}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with all of ODD_CONFIGURATIONS."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "junk").write_bytes(bytes(range(256)))
    (tmp_path / "forbidden").write_text(SITE)
    (tmp_path / "forbidden").chmod(0)
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(tmp_path)  # the path of a Unix socket may have 107 bytes
        bound.bind("socket")
        os.chdir(here)
    return tmp_path


@pytest.mark.parametrize("name", ODD_CONFIGURATIONS)
def test_odd_configuration_exits_2_with_one_line(name: str, odd: Path) -> None:
    need(shutil.which("setpriv") is not None, "setpriv, of util-linux")
    for arguments in (["check-config", name], ["serve", "--config", name]):
        done = subprocess.run(
            ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *COMMAND, *arguments],
            cwd=odd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=READY_S,
        )
        (line,) = done.stderr.splitlines()
        assert (2, "") == (done.returncode, done.stdout)
        assert line.startswith(f"collector: {name}: {ODD_CONFIGURATIONS[name]}")


def test_configuration_is_read_from_a_pipe_with_a_writer(tmp_path: Path) -> None:
    """`collector check-config <(make-config)`, even if `make-config` is slow."""
    reader, writer = os.pipe()
    done = subprocess.Popen(
        [*COMMAND, "check-config", f"/dev/fd/{reader}"],
        cwd=tmp_path,
        env=environment(),
        pass_fds=[reader],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.close(reader)
    with done, os.fdopen(writer, "w") as file:
        file.write(SITE.format("data"))
        file.close()
        assert f"/dev/fd/{reader}: valid; 1 site\n" == (done.stdout and done.stdout.read())


@pytest.mark.parametrize("command", [("recover",), ("expire", "--older-than", "1d")], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pipe", "is not a folder"),
        ("nothing", "does not exist"),
        ("loop", "is not a folder"),
        ("x" * 300, "File name too long"),
    ],
    ids=["pipe", "nothing", "loop", "too long"],
)
def test_odd_data_dir_exits_1_with_one_line(command: tuple[str, ...], name: str, why: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "collector.toml").write_text(SITE.format(name))
    done = run(*command, folder=tmp_path)
    assert (1, f"collector: data_dir {name}: {why}\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize("target", ["loop", "nothing"])
def test_doctor_and_serve_both_refuse_a_data_dir_that_leads_nowhere(target: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(target)
    (tmp_path / "collector.toml").write_text(SITE.format("loop"))
    assert 1 == run("serve", folder=tmp_path).returncode
    assert 1 == run("doctor", folder=tmp_path).returncode
