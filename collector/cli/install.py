"""`collector install`: put this program and its systemd units in place.

    PREFIX/bin/collector                 this one file
    PREFIX/lib/collector/                where each version is unpacked
    PREFIX/lib/systemd/system/           the units; /etc/systemd/system if systemd does not search this prefix
    /etc/collector/collector.toml        an example, unless the file exists

Every file is written next to its target and renamed. So an upgrade can replace a running program, and an interrupted
install leaves either the old file or the new one. Running it again is safe.
"""

import os
import subprocess
from argparse import ArgumentParser, Namespace
from importlib.resources import files
from pathlib import Path

from collector.daemon.resources import StartError
from collector.portable import LINUX
from collector.publish.local import fsync_file, fsync_folder, make_folder

DEFAULT_PREFIX = Path("/usr/local")
WRITTEN_FOR = "/usr/local/"  # the prefix in the repository's units
CONFIG = Path("/etc/collector/collector.toml")
BINARY_VARIABLE = "COLLECTOR_BINARY"  # set by the launcher: the path of the binary that was started

_SEARCHED = (Path("/usr/local"), Path("/usr"))  # prefixes whose lib/systemd/system systemd reads
_SOURCES = files("collector") / "systemd"
_UNITS = (".service", ".socket", ".mount", ".timer")


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Install this binary and its systemd units, or upgrade an installed collector. An existing "
        f"{CONFIG} is left unchanged. The collector is not started."
    )
    parser.add_argument(
        "--prefix",
        type=Path,
        default=DEFAULT_PREFIX,
        metavar="DIR",
        help="install into DIR/bin and DIR/lib; default: %(default)s",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="root folder of the system to install into, such as a mounted image; default: %(default)s",
    )


def run(arguments: Namespace) -> int:
    """Install below `root`. Paths inside the units start at `prefix`, without `root`. Raises StartError."""
    prefix: Path = arguments.prefix
    root: Path = arguments.root
    if not LINUX:
        raise StartError("install: needs Linux with systemd")
    binary = os.environ.get(BINARY_VARIABLE)
    if binary is None:
        raise StartError("install: only the binary can install itself; build it with `make binary`")
    if not prefix.is_absolute():
        raise StartError(f"install: --prefix {prefix}: should begin with /")
    placed = Placed(root.absolute())
    os.umask(0o022)  # every user must be able to read these files, whatever root's umask is
    try:
        make_folder(placed.at(prefix / "lib/collector"))
        _unpack(binary, placed.at(prefix / "lib/collector"))
        placed.file(prefix / "bin/collector", Path(binary).read_bytes(), 0o755)
        units = prefix / "lib/systemd/system" if prefix in _SEARCHED else Path("/etc/systemd/system")
        for name, text in unit_files(prefix).items():
            placed.file(units / name, text.encode(), 0o644)
        is_first = not placed.at(CONFIG).exists()
        if is_first:
            placed.file(CONFIG, (_SOURCES / "collector.example.toml").read_bytes(), 0o644)
        else:
            print(f"{placed.at(CONFIG)}: exists; left unchanged")
    except OSError as exc:
        raise StartError(f"install: {exc.filename}: {exc.strerror}") from None
    if root == Path("/") and Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "daemon-reload"], check=False)
    if is_first:
        print(f"Next: list your sites in {CONFIG}, then run: systemctl enable --now collector")
    else:
        print("Next: systemctl restart collector (new connections wait; none is refused)")
    return 0


def _unpack(binary: str, folder: Path) -> None:
    """Unpack while the old version serves. If the disk is full, the upgrade fails and the collector keeps running."""
    variables = os.environ | {"COLLECTOR_UNPACK_DIR": str(folder)}
    done = subprocess.run([binary, "--unpack-only"], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"install: {done.stderr.strip().removeprefix('collector: ')}")


def unit_files(prefix: Path) -> dict[str, str]:
    """The text of each unit by file name, for a collector installed under `prefix`."""
    return {
        source.name: source.read_text().replace(WRITTEN_FOR, f"{prefix}/".replace("//", "/"))
        for source in sorted(_SOURCES.iterdir(), key=lambda source: source.name)
        if source.name.endswith(_UNITS)
    }


class Placed:
    """Writes files below a root folder and prints each."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def at(self, path: Path) -> Path:
        return self._root / path.relative_to("/")

    def file(self, path: Path, content: bytes, mode: int) -> None:
        """Write a file atomically and durably."""
        place = self.at(path)
        make_folder(place.parent)
        new = place.with_name(f".{place.name}.new")  # a fixed name: the next install overwrites what a killed one left
        new.unlink(missing_ok=True)
        new.write_bytes(content)
        new.chmod(mode)
        fsync_file(new)
        new.replace(place)
        fsync_folder(place.parent)
        print(f"{place}: installed")
