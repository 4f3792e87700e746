"""The demo: the files of the folder `tracker.demo_dir`. They are read at the start, and served at /demo/."""

import os
from collections.abc import Iterator
from pathlib import Path

from collector.config import Tracker
from collector.config_file import ConfigError
from collector.environment import ENV_PREFIX

MOST_FILES = 100
MOST_BYTES = 2 << 20

_VARIABLE = f"{ENV_PREFIX}TRACKER__DEMO_DIR"


def check_demo(config_file: Path, tracker: Tracker) -> None:
    """Raise ConfigError, which names the file or the variable, if the demo cannot be served."""
    try:
        read_demo(tracker)
    except ConfigError as exc:
        where = next((name for name in os.environ if name.upper() == _VARIABLE), config_file)
        raise ConfigError([f"{where}: {error}" for error in exc.errors]) from None


def read_demo(tracker: Tracker) -> dict[str, bytes]:
    """The content of each file by its path within the folder; none without the setting. Raises ConfigError.

    Call it before data_dir becomes the working directory, because the folder may be relative.
    """
    if not tracker.demo_dir:
        return {}
    folder = Path(tracker.demo_dir)
    try:
        return dict(_read(folder))
    except OSError as exc:
        raise ConfigError([f"tracker.demo_dir: {exc.filename or folder} cannot be read: {exc.strerror}"]) from None


def _read(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Hidden files are left out, because editors and version control make them; links too."""
    left_bytes = MOST_BYTES
    for count, path in enumerate(_files(folder), start=1):
        with path.open("rb") as file:
            content = file.read(left_bytes + 1)
        left_bytes -= len(content)
        if count > MOST_FILES or left_bytes < 0:
            limits = f"{MOST_FILES} files and {MOST_BYTES >> 20} MB"
            raise ConfigError([f"tracker.demo_dir: {folder} is too large for a demo; it may have {limits}"])
        name = path.relative_to(folder).as_posix()
        if not name.isprintable():  # such as bytes that are not UTF-8
            raise ConfigError([f"tracker.demo_dir: {name!a} in {folder} has a name that no URL can have"])
        yield name, content


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink():  # a link could lead out of the folder
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path
