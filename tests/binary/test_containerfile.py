"""`packaging/Containerfile`: its paths, ports and settings agree, its health check works, and the image builds."""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from collector.cli.main import main
from collector.config_file import load
from tests.binary.conftest import BUILT, ROOT
from tests.system.process import READY_S, serving, wait_until

FILE = ROOT / "packaging" / "Containerfile"
PAGE = (ROOT / "docs" / "containers.md").read_text()


def instructions() -> dict[str, str]:
    """The instructions of the file and their values. Each may occur once."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", FILE.read_text()))
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    assert len(pairs) == len({name for name, _ in pairs})
    return {name: " ".join(value.split()) for name, value in pairs}


FOUND = instructions()
VARIABLES = dict(pair.split("=", 1) for pair in shlex.split(FOUND["ENV"]))
HEALTH_CHECK: list[str] = json.loads(FOUND["HEALTHCHECK"].partition("CMD ")[2])
PORT = VARIABLES["COLLECTOR__SERVER__PORT"]
DATA_DIR = VARIABLES["COLLECTOR__STORAGE__DATA_DIR"]


def test_containerfile_has_every_instruction_of_a_stateful_service() -> None:
    expected = {*("FROM", "COPY", "ENV", "RUN", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"), "HEALTHCHECK"}
    assert expected | {"ENTRYPOINT", "CMD"} == FOUND.keys()


def test_image_copies_and_starts_the_binary() -> None:
    source, target = FOUND["COPY"].split()
    assert BUILT.name == source
    assert [target] == json.loads(FOUND["ENTRYPOINT"])
    assert FOUND["RUN"].startswith(f"{Path(target).name} --unpack-only && ")  # it is on Debian's PATH
    assert "/usr/local/bin" == str(Path(target).parent)


def test_paths_ports_and_user_agree_with_each_other_and_the_page() -> None:
    assert (DATA_DIR, PORT) == (FOUND["VOLUME"], FOUND["EXPOSE"])
    user, group = FOUND["USER"].split(":")
    assert "0" not in (user, group)
    assert FOUND["RUN"].endswith(f"install -d -o {user} -g {group} {DATA_DIR}")
    assert f"/dev/tcp/127.0.0.1/{PORT};" in HEALTH_CHECK[-1]
    for text in (f":{PORT}:{PORT} ", f":{DATA_DIR} collector", f"user {user}", f"chown {user}:{group}"):
        assert text in PAGE


def test_stop_signal_is_the_one_that_drains() -> None:
    assert signal.SIGTERM is signal.Signals[FOUND["STOPSIGNAL"]]


def test_variables_override_the_file_and_listen_on_every_address(tmp_path: Path) -> None:
    file = tmp_path / "collector.toml"
    file.write_text('[server]\nport = 1\nhost = "127.0.0.1"\n[sites.demo]\n')
    config = load(file, VARIABLES)
    assert ("0.0.0.0", int(PORT), Path(DATA_DIR)) == (config.server.host, config.server.port, config.storage.data_dir)
    assert "127.0.0.1" == config.admin.host


def test_default_command_serves_the_mounted_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    command = json.loads(FOUND["CMD"])
    assert ["serve", "--config"] == command[:2]
    assert f"-v {Path(command[2]).parent}:{Path(command[2]).parent}:ro" in PAGE
    monkeypatch.chdir(tmp_path)
    assert 2 == main([*command[:2], str(tmp_path / "nothing")])
    assert "cannot be read" in capsys.readouterr().err


def is_healthy(port: int) -> bool:
    """Whether the health check succeeds, with this port in place of its own."""
    command = [word.replace(f"/{PORT};", f"/{port};") for word in HEALTH_CHECK]
    return 0 == subprocess.run(command, capture_output=True, timeout=READY_S, check=False).returncode


def test_health_check_succeeds_only_while_events_are_accepted(tmp_path: Path) -> None:
    """It fails if data_dir is gone, the collector has stopped, or another program closes the connection."""
    with serving(tmp_path) as process:
        port = int(process.url.rpartition(":")[2])
        assert is_healthy(port)
        process.data_dir.rename(tmp_path / "elsewhere")
        wait_until(lambda: not is_healthy(port), "the health check fails without the data_dir")
        (tmp_path / "elsewhere").rename(process.data_dir)
        process.stop()
        assert not is_healthy(port)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(READY_S)
        other = silent.getsockname()[1]
        with subprocess.Popen([word.replace(f"/{PORT};", f"/{other};") for word in HEALTH_CHECK]) as popen:
            connection, _ = silent.accept()
            connection.close()
            assert 0 != popen.wait(READY_S)


INSPECT = {"podman": ("image", "inspect"), "docker": ("image", "inspect"), "buildah": ("inspect", "--type", "image")}
OPTIONS = {"podman": ("--format", "docker"), "docker": (), "buildah": ("--format", "docker", "--pull=never")}


def builder() -> str | None:
    """A tool that can build here without the network, because it already has the base image; None if there is none."""
    for name, arguments in INSPECT.items():
        if shutil.which(name) is not None:
            command = [name, *arguments, FOUND["FROM"]]
            if 0 == subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
                return name
    return None


def test_image_builds_and_runs(binary: Path, tmp_path: Path) -> None:
    name = builder()
    if name is None:
        pytest.skip(f"needs podman, docker or buildah that has {FOUND['FROM']}")
    file = tmp_path / "image"
    build = [name, "build", *OPTIONS[name], "--iidfile", str(file), "-f", str(FILE), str(binary.parent)]
    subprocess.run(build, check=True, timeout=600)
    image = file.read_text().strip()
    try:
        if name == "buildah":  # it cannot run an image
            return
        for arguments, start in (([image, "--version"], "collector "), (["--entrypoint", "id", image], "uid=65532")):
            done = subprocess.run([name, "run", "--rm", *arguments], capture_output=True, text=True, timeout=60)
            assert done.stdout.startswith(start)
    finally:
        subprocess.run([name, "rmi", "--force", image], check=False, timeout=60)
