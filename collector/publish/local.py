"""Publishing on a local file system: makes a finished file visible, complete, in one step.

The staged file is linked under its final name. The link fails if the name is taken, so a file that a reader may have
open is never overwritten. After a kill before the link, only the staged file exists; after a later kill, the file may
have both names. Either way, the next start deletes the name in `staging/`.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from collector.portable import sync

# A path takes about 200 bytes. Without a limit, 10,000 sites with a new folder every day would add up forever.
MAX_KNOWN = 65_536


class Folders:
    """Makes folders below `root`, each synced in its parent before any file in it counts as durable.

    A serving process works in its data_dir and uses `.` as root (see collector/daemon/resources.py). Its paths stay
    valid if the data_dir is moved; if it is deleted, no new folder can be made in its place.

    Each process also syncs existing folders once, because the process that made them may have been killed before its
    sync. Threads may share an object: if two make the same folder, both sync it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: set[Path] = set()

    def make(self, folder: Path) -> None:
        """Make the folder and its missing parents, durably. Raises OSError."""
        try:
            self._make(folder)
        except FileNotFoundError:
            self._make_again(folder)

    def make_siblings(self, folders: Iterable[Path]) -> None:
        """Make folders that have the same parent, which is synced once, not after each. Raises OSError if that fails.

        Leaves out folders that cannot be made: `make` says why.
        """
        new = [folder for folder in folders if folder not in self._known]
        if len(new) < 2:
            return
        parent = new[0].parent
        self.make(parent)
        made = []
        for folder in new:
            with suppress(OSError):
                folder.mkdir(exist_ok=True)
                made.append(folder)
        if made:
            fsync_folder(parent)
            self._remember(made)

    def open_in(self, path: Path, flags: int) -> int:
        """Make the file's folder, then open the file and return its descriptor. Raises OSError."""
        self.make(path.parent)
        try:
            return os.open(path, flags, 0o644)
        except FileNotFoundError:
            self._make_again(path.parent)
            return os.open(path, flags, 0o644)

    def publish(self, staged: Path, final: Path) -> bool:
        """Make the staged file visible as `final`, durably. Returns False if the name is taken.

        Both paths must be on one file system. Raises OSError; then `final` may or may not exist, and trying again is
        safe.
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
        """Make the folder again if someone has deleted it. Raises OSError."""
        if not folder.is_dir():
            self._make_again(folder)

    def _make_again(self, folder: Path) -> None:
        """Make a known folder again. Users may delete folders, such as those of empty days."""
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
        self._remember([folder])

    def _remember(self, synced: list[Path]) -> None:
        if len(self._known) + len(synced) > MAX_KNOWN:
            self._known.clear()
        self._known.update(synced)


def make_folder(folder: Path) -> None:
    """Make the folder and its missing parents, each synced in its own parent before it is used. Raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def fsync_file(path: Path) -> None:
    """Wait until the file's bytes are on disk. Raises OSError."""
    with _opened(path, os.O_RDONLY) as descriptor:
        sync(descriptor)


def fsync_folder(folder: Path) -> None:
    """Wait until the folder's names are on disk, or a power cut could take a file's name. Raises OSError."""
    with open_folder(folder) as descriptor:
        sync(descriptor)


def open_folder(folder: Path) -> AbstractContextManager[int]:
    """Open the folder, to sync it. The descriptor is closed on exit."""
    return _opened(folder, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sweep(trash: Path) -> None:
    """Delete everything in the folder, if it exists. Keeps the folder, which a full disk could not hold again."""
    for left in trash.glob("*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
