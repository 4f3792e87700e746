"""`collector install`: this program and its units, where a service manager finds them.

    PREFIX/bin/collector                 this one file
    PREFIX/lib/collector/                where it is unpacked, once for each version
    PREFIX/lib/systemd/system/           the units; for a prefix where systemd does not look, /etc/systemd/system
    /etc/collector/collector.toml        an example, if there is none

Every file is written beside its place and renamed, so that an upgrade can replace a program that runs, and whoever is
killed meanwhile leaves the old file or the new. Everything can be done again.
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
WRITTEN_FOR = "/usr/local/"  # the prefix in the units as they are in the repository
CONFIG = Path("/etc/collector/collector.toml")
BINARY_VARIABLE = "COLLECTOR_BINARY"  # set by the launcher: the path of the single file that was started

_SEARCHED = (Path("/usr/local"), Path("/usr"))  # prefixes whose lib/systemd/system systemd reads
_SOURCES = files("collector") / "systemd"
_UNITS = (".service", ".socket", ".mount", ".timer")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--prefix", type=Path, default=DEFAULT_PREFIX, metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="of the system to install into; default: %(default)s",
    )


def run(arguments: Namespace) -> int:
    """Install below `root`; the files speak of `prefix` without it. Raises StartError."""
    prefix: Path = arguments.prefix
    root: Path = arguments.root
    if not LINUX:
        raise StartError("install: needs Linux, and systemd for its units")
    binary = os.environ.get(BINARY_VARIABLE)
    if binary is None:
        raise StartError("install: copies the single file that `make binary` makes, and this program is none")
    if not prefix.is_absolute():
        raise StartError(f"install: --prefix {prefix}: should begin with /")
    placed = Placed(root.absolute())
    os.umask(0o022)  # all of it is for everybody to read, whatever root's habit is
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
            print(f"{placed.at(CONFIG)}: is there, and stays as it is")
    except OSError as exc:
        raise StartError(f"install: {exc.filename}: {exc.strerror}") from None
    if root == Path("/") and Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "daemon-reload"], check=False)
    if is_first:
        print(f"Next: name your sites in {CONFIG}, then: systemctl enable --now collector")
    else:
        print("Next: systemctl restart collector (nobody is refused meanwhile)")
    return 0


def _unpack(binary: str, folder: Path) -> None:
    """Now, while the old version serves: a disk that is too full for two stops the upgrade, and not the collector."""
    variables = os.environ | {"COLLECTOR_UNPACK_DIR": str(folder)}
    done = subprocess.run([binary, "--unpack-only"], env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"install: {done.stderr.strip().removeprefix('collector: ')}")


def unit_files(prefix: Path) -> dict[str, str]:
    """The units, by name, for a collector that is installed there."""
    return {
        source.name: source.read_text().replace(WRITTEN_FOR, f"{prefix}/".replace("//", "/"))
        for source in sorted(_SOURCES.iterdir(), key=lambda source: source.name)
        if source.name.endswith(_UNITS)
    }


class Placed:
    """Puts files below a root, and says so."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def at(self, path: Path) -> Path:
        return self._root / path.relative_to("/")

    def file(self, path: Path, content: bytes, mode: int) -> None:
        """Put it there at once and whole."""
        place = self.at(path)
        make_folder(place.parent)
        new = place.with_name(f".{place.name}.new")  # one name: what a killed install left is written over
        new.unlink(missing_ok=True)
        new.write_bytes(content)
        new.chmod(mode)
        fsync_file(new)
        new.replace(place)
        fsync_folder(place.parent)
        print(f"{place}: installed")
