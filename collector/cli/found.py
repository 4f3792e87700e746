"""What lies in a folder: every file below it, and the content of those that are files.

Nothing is trusted to be what its name says. A pipe that is called `x.parquet` would be waited for, a folder or a link
may lead nowhere, and what is there now may be gone when it is opened.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


class NoFile(OSError):
    """It is there, and no file; `strerror` says what it is."""


@dataclass(frozen=True, slots=True)
class Found:
    """Everything below a folder but its links' targets, and the folders that could not be looked into, with why."""

    paths: list[Path] = field(default_factory=list)
    unread: list[tuple[Path, OSError]] = field(default_factory=list)


def below(root: Path, passes: Callable[[str], bool]) -> Found:
    """What is there. Folders whose names do not pass are left out, and all that is in them."""
    found = Found()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                there = [(folder / entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):  # since it was listed
            continue
        except OSError as exc:
            found.unread.append((folder, exc))
            continue
        found.paths.extend(path for path, is_folder in there if not is_folder or passes(path.name))
        waiting += [path for path, is_folder in there if is_folder and passes(path.name)]
    return found


def what_it_is(path: Path) -> str | None:
    """In words, where it is no file; None where it is one. Raises OSError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return "is a link to nothing"
        raise
    return next((words for is_it, words in _KINDS if is_it(mode)), None)


def open_file(path: Path) -> BinaryIO:
    """Open what is a file, to read; nothing is waited for. Raises NoFile, OSError."""
    kind = what_it_is(path)
    if kind is not None:
        raise NoFile(0, kind)
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def is_gone(path: Path) -> bool:
    """Whether it is not there any more; what cannot be seen is."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
