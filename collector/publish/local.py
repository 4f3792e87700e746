"""Publishing on a local file system: a finished file becomes visible at once, whole and under one name.

The staged file is linked under its final name, which fails where that name is taken: nothing a reader may
have open is ever overwritten. Killed before the link, the staged file is left for the next start to sweep;
killed after it, the file is there and the second name in `staging/` is swept likewise.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from collector.portable import sync

# A name takes some 200 bytes; 10,000 sites with a folder a day must not add up for ever.
MAX_KNOWN = 65_536


class Folders:
    """The folders below `root`, each synced in its parent before what it holds counts.

    A process that serves works in its data_dir, and its root is `.` (see collector/daemon/resources.py): wherever that
    folder is moved, its paths lead there; and if it is deleted, nothing can be made in its place.

    A folder that is there already is synced too, once by each process: whoever made it may have been killed before its
    sync. Not thread-safe where two threads make one folder; then both sync it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: set[Path] = set()

    def make(self, folder: Path) -> None:
        """Make the folder and its missing parents, for good. Raises OSError."""
        try:
            self._make(folder)
        except FileNotFoundError:
            self._make_again(folder)

    def open_in(self, path: Path, flags: int) -> int:
        """Open a new file, its folder made first. Raises OSError."""
        self.make(path.parent)
        try:
            return os.open(path, flags, 0o644)
        except FileNotFoundError:
            self._make_again(path.parent)
            return os.open(path, flags, 0o644)

    def publish(self, staged: Path, final: Path) -> bool:
        """Make the staged file visible as `final`, through a power cut too. False where the name is taken.

        Both must be on one file system. Raises OSError; then `final` may or may not be there, and trying again
        is safe.
        """
        self.make(final.parent)
        try:
            os.link(staged, final)
        except FileExistsError:
            return False
        except FileNotFoundError:
            self._make_again(final.parent)
            os.link(staged, final)
        fsync_folder(final.parent)
        staged.unlink()
        return True

    def make_if_gone(self, folder: Path) -> None:
        """Make a folder that somebody may have cleared away since it was made. Raises OSError."""
        if not folder.is_dir():
            self._make_again(folder)

    def _make_again(self, folder: Path) -> None:
        """Someone has removed a folder since, as one may with an empty day."""
        self._known.clear()
        self._make(folder)

    def _make(self, folder: Path) -> None:
        if folder in self._known:
            return
        if folder == self.root:
            make_folder(folder)
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known.add(folder)


def make_folder(folder: Path) -> None:
    """Create the folder and its missing parents, each synced in its own parent before it is used. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def fsync_file(path: Path) -> None:
    """Wait until the file's bytes are on the disk."""
    with _opened(path, os.O_RDONLY) as descriptor:
        sync(descriptor)


def fsync_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk: after a power cut a file can exist without its name."""
    with open_folder(folder) as descriptor:
        sync(descriptor)


def open_folder(folder: Path) -> AbstractContextManager[int]:
    """A descriptor of the folder, to sync it by."""
    return _opened(folder, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sweep(trash: Path) -> None:
    """Delete what is in the folder, if it is there. The folder stays: a full disk might not give it back."""
    for left in trash.glob("*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
