"""The unit files, and `collector install`, which puts them in place."""

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from collector.cli.install import BINARY_VARIABLE, unit_files
from collector.cli.main import main
from tests.crash.conftest import need

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
SERVICE = (UNITS / "collector.service").read_text()


UNPACKS = b"""#!/bin/sh
[ "$1" = --unpack-only ] && touch "$COLLECTOR_UNPACK_DIR/unpacked"
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that `install` takes for the running program. It creates a file when it is asked to unpack."""
    made = tmp_path / "download"
    made.write_bytes(UNPACKS)
    made.chmod(0o755)
    monkeypatch.setenv(BINARY_VARIABLE, str(made))
    return made


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_package_contains_the_units() -> None:
    packaged = files("collector") / "systemd"
    assert {path.name for path in UNITS.iterdir()} == {path.name for path in packaged.iterdir()}
    for path in UNITS.iterdir():
        assert path.read_bytes() == (packaged / path.name).read_bytes()


def test_readme_installs_with_the_commands_of_the_page() -> None:
    """tests/systemd/test_host.py runs the commands of docs/systemd.md."""
    page, readme = (
        re.findall(r"^(sudo(?: \./collector|edit| systemctl enable --now collector\b).*?) *(?:#|$)", text, re.MULTILINE)
        for text in ((ROOT / "docs/systemd.md").read_text(), (ROOT / "README.md").read_text())
    )
    assert 3 == len(page)
    assert page == readme


def test_install_puts_every_file_in_place(tmp_path: Path, program: Path) -> None:
    root = tmp_path / "root"
    assert 0 == main(["install", "--root", str(root)])
    assert {
        "etc/collector/collector.toml",
        "usr/local/bin/collector",
        "usr/local/lib/collector/unpacked",
        *(f"usr/local/lib/systemd/system/{name}" for name in unit_files(Path("/usr/local"))),
    } == tree(root)
    assert SERVICE == (root / "usr/local/lib/systemd/system/collector.service").read_text()
    assert 0o755 == (root / "usr/local/bin/collector").stat().st_mode & 0o777


def test_upgrade_replaces_program_and_units_but_not_the_configuration(tmp_path: Path, program: Path) -> None:
    """A process that runs the old file keeps it complete. Files that a killed install left do no harm."""
    root = tmp_path / "root"
    assert 0 == main(["install", "--root", str(root)])
    (root / "etc/collector/collector.toml").write_text("mine")
    installed = root / "usr/local/bin/collector"
    (root / "usr/local/bin/.collector.new").write_text("half of it")
    unit = root / "usr/local/lib/systemd/system/collector.service"
    unit.write_text("old")
    with installed.open("rb") as running:
        program.write_bytes(UNPACKS + b"# version 2")
        assert 0 == main(["install", "--root", str(root)])
        assert UNPACKS == running.read()
    assert (UNPACKS + b"# version 2", SERVICE) == (installed.read_bytes(), unit.read_text())
    assert "mine" == (root / "etc/collector/collector.toml").read_text()
    assert not (root / "usr/local/bin/.collector.new").exists()


def test_install_with_another_prefix_changes_every_path_in_the_units(tmp_path: Path, program: Path) -> None:
    assert 0 == main(["install", "--prefix", "/opt/collector", "--root", str(tmp_path / "root")])
    assert (tmp_path / "root/opt/collector/bin/collector").exists()
    unit = (tmp_path / "root/etc/systemd/system/collector.service").read_text()
    assert "/usr/local" not in unit
    assert "ExecStart=/opt/collector/bin/collector serve" in unit
    assert "COLLECTOR_UNPACK_DIR=/opt/collector/lib/collector" in unit


def test_upgrade_that_cannot_be_unpacked_keeps_the_old_version(
    tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk, for example. The old version can still be started."""
    root = tmp_path / "root"
    assert 0 == main(["install", "--root", str(root)])
    program.write_text("#!/bin/sh\necho 'collector: cannot unpack: No space left on device' >&2; exit 1")
    assert 1 == main(["install", "--root", str(root)])
    assert "collector: install: cannot unpack: No space left on device\n" == capsys.readouterr().err
    assert UNPACKS == (root / "usr/local/bin/collector").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prefix", "here"], "--prefix here: should begin with /"),
        (["--root", "/proc/1"], "install: /proc/1/"),
    ],
)
def test_failed_install_says_why(
    program: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 1 == main(["install", *arguments])
    assert said in capsys.readouterr().err


def test_install_without_the_single_file_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(BINARY_VARIABLE, raising=False)
    assert 1 == main(["install", "--root", str(tmp_path)])
    assert "make binary" in capsys.readouterr().err
    assert set() == tree(tmp_path)


def test_example_configuration_is_valid_and_uses_the_folder_of_the_unit(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["check-config", str(UNITS / "collector.example.toml")])
    assert 'data_dir = "/var/lib/collector"' in (UNITS / "collector.example.toml").read_text()
    assert "StateDirectory=collector\n" in SERVICE


def test_exposure_of_the_service_is_low(tmp_path: Path) -> None:
    """systemd's exposure level, from 0 (safe) to 10, is at most 1.5."""
    need(bool(shutil.which("systemd-analyze")), "systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", UNITS / "collector.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
