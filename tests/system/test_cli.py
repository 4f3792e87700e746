"""The command line as a process: both ways to call it, and every reason why `serve` cannot start."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector import VERSION
from collector.events import CONTRACT_HASH
from tests.support import body
from tests.system.process import COMMAND, configure, environment, run

SCRIPT = (str(Path(sys.executable).with_name("collector")),)


@pytest.mark.parametrize("command", [COMMAND, SCRIPT], ids=["module", "script"])
def test_module_and_script_are_the_same_command(command: tuple[str, ...], tmp_path: Path) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=20
        )
        return done.returncode, done.stdout, done.stderr

    code, version, errors = call("--version")
    assert (0, "") == (code, errors)
    assert re.fullmatch(
        rf"collector {VERSION}(, commit [0-9a-f]+(-dirty)?)?, contract {CONTRACT_HASH}, (compiled|interpreted)\n",
        version,
    )
    assert (2, "", "collector: nothing.toml: cannot be read: No such file or directory\n") == call(
        "check-config", "nothing.toml"
    )


def _bad_config(folder: Path) -> tuple[int, str, str]:
    configure(folder, server={"prot": 80})
    return 2, "collector.toml: server.prot: ", "did you mean port?"


def _no_config(folder: Path) -> tuple[int, str, str]:
    return 2, "collector.toml: ", "No such file or directory"


def _below_a_plain_file(folder: Path) -> tuple[int, str, str]:
    (folder / "plain").touch()
    configure(folder, storage={"data_dir": folder / "plain" / "data"})
    return 1, f"data_dir {folder}/plain/data", f"{folder}/plain"


def _dataset_is_a_plain_file(folder: Path) -> tuple[int, str, str]:
    (folder / "data").mkdir()
    (folder / "data" / "events").touch()
    configure(folder)
    return 1, f"data_dir {folder}/data", f"{folder}/data/events"


def _data_dir_with_too_long_a_name(folder: Path) -> tuple[int, str, str]:
    configure(folder, storage={"data_dir": "x" * 300})
    return 1, f"data_dir {'x' * 300}", "File name too long"


def _data_dir_that_is_no_path(folder: Path) -> tuple[int, str, str]:
    configure(folder, storage={"data_dir": "a\0b"})
    return 2, "collector.toml: storage.data_dir: ", "should"


def _unknown_host(folder: Path) -> tuple[int, str, str]:
    configure(folder, server={"host": "nosuch.invalid"})
    return 1, "server: cannot listen on nosuch.invalid:0: ", ""


def _foreign_address(folder: Path) -> tuple[int, str, str]:
    configure(folder, admin={"host": "192.0.2.1"})
    return 1, "admin: cannot listen on 192.0.2.1:0: ", "Cannot assign requested address"


def _host_that_is_no_name(folder: Path) -> tuple[int, str, str]:
    configure(folder, server={"host": "a..b"})
    return 1, "server: cannot listen on a..b:0: ", ""


@pytest.mark.parametrize(
    "arrange",
    [
        _bad_config,
        _no_config,
        _below_a_plain_file,
        _dataset_is_a_plain_file,
        _data_dir_with_too_long_a_name,
        _data_dir_that_is_no_path,
        _unknown_host,
        _foreign_address,
        _host_that_is_no_name,
    ],
)
def test_serve_that_cannot_start_says_why_in_one_line(
    arrange: Callable[[Path], tuple[int, str, str]], tmp_path: Path
) -> None:
    """`collector.toml` in the working directory is the default."""
    code, first, why = arrange(tmp_path)
    done = run("serve", folder=tmp_path)
    (line,) = done.stderr.splitlines()
    assert (code, "") == (done.returncode, done.stdout)
    assert line.startswith(f"collector: {first}")
    assert why in line


@pytest.mark.parametrize("section", ["server", "admin"])
def test_taken_port_is_named_with_exit_code_1(section: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sections: dict[str, dict[str, Any]] = {section: {"port": port}}
        configure(tmp_path, **sections)
        done = run("serve", folder=tmp_path)
    assert (1, "", f"collector: {section}: cannot listen on 127.0.0.1:{port}: Address already in use\n") == (
        done.returncode,
        done.stdout,
        done.stderr,
    )


def test_one_port_for_both_listeners_is_named_with_exit_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configure(tmp_path, server={"port": port}, admin={"port": port})
    done = run("serve", folder=tmp_path)
    (line,) = done.stderr.splitlines()
    assert (1, True) == (done.returncode, f"cannot listen on 127.0.0.1:{port}" in line), line


def test_validate_reads_standard_input(tmp_path: Path) -> None:
    done = run("validate", folder=tmp_path, stdin=body() + b"\n{}\n")
    assert (1, "1 of 2 events would be stored\n") == (done.returncode, done.stderr)
    assert ["1: stored", "2: invalid"] == [":".join(line.split(":")[:2]) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("arguments", [["schema", "--json"], ["schema", "--parquet"], ["validate", "one"]])
def test_closed_output_pipe_is_not_reported(arguments: list[str], tmp_path: Path) -> None:
    """`collector schema --parquet | head -1` prints no error, whether or not the output fits into a buffer."""
    (tmp_path / "one").write_bytes(body())
    reader, writer = os.pipe()
    os.close(reader)
    try:
        buffered = {name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, env=buffered, stdout=writer, stderr=subprocess.PIPE, timeout=20
        )
    finally:
        os.close(writer)
    errors = [line for line in done.stderr.decode().splitlines() if "would be stored" not in line]
    assert (1, []) == (done.returncode, errors)
