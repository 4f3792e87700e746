"""Files whose names may lie: list a folder, and open what is a regular file.

A pipe may be called `x.parquet`, and opening it would block. A link may lead nowhere. A file that was listed may be
gone when it is opened.
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


class NotAFile(OSError):
    """The path exists, and is no regular file; `strerror` says what it is."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything below a folder but its links' targets, and the folders that could not be looked into, with why."""

    paths: list[Path] = field(default_factory=list)
    unread: list[tuple[Path, OSError]] = field(default_factory=list)


def walk(root: Path, passes: Callable[[str], bool]) -> Listing:
    """List it. Folders whose names do not pass are left out, and all that is in them."""
    listing = Listing()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                there = [(folder / entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):  # since it was listed
            continue
        except OSError as exc:
            listing.unread.append((folder, exc))
            continue
        listing.paths.extend(path for path, is_folder in there if not is_folder or passes(path.name))
        waiting += [path for path, is_folder in there if is_folder and passes(path.name)]
    return listing


def not_a_file(path: Path) -> str | None:
    """What it is, in words; None for a regular file. Raises OSError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return "is a link to nothing"
        raise
    return next((words for is_it, words in _KINDS if is_it(mode)), None)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file to read, without blocking. Raises NotAFile, OSError."""
    kind = not_a_file(path)
    if kind is not None:
        raise NotAFile(0, kind)
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def is_gone(path: Path) -> bool:
    """Whether it no longer exists. False where that cannot be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
