"""List folders and open regular files, whatever their names suggest.

A pipe may be called `x.parquet`, and opening it would block. A symlink may dangle. A listed file may be deleted before
it is opened.
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
    """The path exists but is not a regular file; `strerror` says what it is."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Every path below a folder, not following symlinks, and the folders that could not be read, with their errors."""

    paths: list[Path] = field(default_factory=list)
    unread: list[tuple[Path, OSError]] = field(default_factory=list)


def walk(root: Path, passes: Callable[[str], bool]) -> Listing:
    """List everything below `root`, except the folders whose names do not pass and what is in them."""
    listing = Listing()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                there = [(folder / entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):  # deleted since it was listed
            continue
        except OSError as exc:
            listing.unread.append((folder, exc))
            continue
        listing.paths.extend(path for path, is_folder in there if not is_folder or passes(path.name))
        waiting += [path for path, is_folder in there if is_folder and passes(path.name)]
    return listing


def not_a_file(path: Path) -> str | None:
    """What the path is instead, such as "is a pipe"; None for a regular file. Raises OSError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            return "is a dangling symlink"
        raise
    return next((kind for matches, kind in _KINDS if matches(mode)), None)


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading, without blocking. Raises NotAFile, OSError."""
    kind = not_a_file(path)
    if kind is not None:
        raise NotAFile(0, kind)
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def is_gone(path: Path) -> bool:
    """Whether the path no longer exists; False if that cannot be determined."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
