"""`packaging/Containerfile`: what it names is there, its health check tells the states apart, and it builds."""

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
    """What the file has, each instruction once."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", FILE.read_text()))
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    assert len(pairs) == len({name for name, _ in pairs})
    return {name: " ".join(value.split()) for name, value in pairs}


FOUND = instructions()
VARIABLES = dict(pair.split("=", 1) for pair in shlex.split(FOUND["ENV"]))
HEALTH_CHECK: list[str] = json.loads(FOUND["HEALTHCHECK"].partition("CMD ")[2])
PORT = VARIABLES["COLLECTOR__SERVER__PORT"]
DATA_DIR = VARIABLES["COLLECTOR__STORAGE__DATA_DIR"]


def test_it_has_what_a_container_of_a_database_needs() -> None:
    expected = {*("FROM", "COPY", "ENV", "RUN", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"), "HEALTHCHECK"}
    assert expected | {"ENTRYPOINT", "CMD"} == FOUND.keys()


def test_binary_is_what_is_built_and_what_is_started() -> None:
    source, target = FOUND["COPY"].split()
    assert BUILT.name == source
    assert [target] == json.loads(FOUND["ENTRYPOINT"])
    assert FOUND["RUN"].startswith(f"{Path(target).name} --unpack-only && ")  # it is on Debian's PATH
    assert "/usr/local/bin" == str(Path(target).parent)


def test_paths_and_ports_are_the_same_everywhere() -> None:
    assert (DATA_DIR, PORT) == (FOUND["VOLUME"], FOUND["EXPOSE"])
    user, group = FOUND["USER"].split(":")
    assert "0" not in (user, group)
    assert FOUND["RUN"].endswith(f"install -d -o {user} -g {group} {DATA_DIR}")
    assert f"/dev/tcp/127.0.0.1/{PORT};" in HEALTH_CHECK[-1]
    for words in (f":{PORT}:{PORT} ", f":{DATA_DIR} collector", f"user {user}", f"chown {user}:{group}"):
        assert words in PAGE


def test_stop_signal_is_the_one_that_drains() -> None:
    assert signal.SIGTERM is signal.Signals[FOUND["STOPSIGNAL"]]


def test_variables_are_settings_and_listen_for_others(tmp_path: Path) -> None:
    file = tmp_path / "collector.toml"
    file.write_text('[server]\nport = 1\nhost = "127.0.0.1"\n[sites.demo]\n')
    config = load(file, VARIABLES)
    assert ("0.0.0.0", int(PORT), Path(DATA_DIR)) == (config.server.host, config.server.port, config.storage.data_dir)
    assert "127.0.0.1" == config.admin.host


def test_command_is_one_of_the_collectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    command = json.loads(FOUND["CMD"])
    assert ["serve", "--config"] == command[:2]
    assert f"-v {Path(command[2]).parent}:{Path(command[2]).parent}:ro" in PAGE
    monkeypatch.chdir(tmp_path)
    assert 2 == main([*command[:2], str(tmp_path / "nothing")])
    assert "cannot be read" in capsys.readouterr().err


def checked(port: int) -> bool:
    """Whether the health check is content, with that port in the place of its own."""
    command = [word.replace(f"/{PORT};", f"/{port};") for word in HEALTH_CHECK]
    return 0 == subprocess.run(command, capture_output=True, timeout=READY_S, check=False).returncode


def test_health_check_tells_who_takes_events_from_who_does_not(tmp_path: Path) -> None:
    """A collector that is not there, one that serves, one without its data_dir, and somebody else."""
    with serving(tmp_path) as process:
        port = int(process.url.rpartition(":")[2])
        assert checked(port)
        process.data_dir.rename(tmp_path / "elsewhere")
        wait_until(lambda: not checked(port), "it is told that the data_dir has moved")
        (tmp_path / "elsewhere").rename(process.data_dir)
        process.stop()
        assert not checked(port)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        other = silent.getsockname()[1]
        popen = subprocess.Popen([word.replace(f"/{PORT};", f"/{other};") for word in HEALTH_CHECK])
        connection, _ = silent.accept()
        connection.close()
        assert 0 != popen.wait(READY_S)


INSPECT = {"podman": ("image", "inspect"), "docker": ("image", "inspect"), "buildah": ("inspect", "--type", "image")}
OPTIONS = {"podman": ("--format", "docker"), "docker": (), "buildah": ("--format", "docker", "--pull=never")}


def builder() -> str | None:
    """What can build here without the network: it works, and has the image to begin with."""
    for name, arguments in INSPECT.items():
        if shutil.which(name) is not None:
            command = [name, *arguments, FOUND["FROM"]]
            if 0 == subprocess.run(command, capture_output=True, timeout=60, check=False).returncode:
                return name
    return None


def test_it_builds_and_runs(binary: Path, tmp_path: Path) -> None:
    name = builder()
    if name is None:
        pytest.skip(f"needs podman, docker or buildah that has {FOUND['FROM']}")
    file = tmp_path / "image"
    build = [name, "build", *OPTIONS[name], "--iidfile", str(file), "-f", str(FILE), str(binary.parent)]
    subprocess.run(build, check=True, timeout=600)
    image = file.read_text().strip()
    try:
        if name == "buildah":  # which only builds
            return
        for arguments, said in (([image, "--version"], "collector "), (["--entrypoint", "id", image], "uid=65532")):
            done = subprocess.run([name, "run", "--rm", *arguments], capture_output=True, text=True, timeout=60)
            assert done.stdout.startswith(said)
    finally:
        subprocess.run([name, "rmi", "--force", image], check=False, timeout=60)
