"""Publishing on a local file system: a finished part becomes visible at once, whole and under one name.

The staged file is linked under its final name, which fails where that name is taken: nothing a reader may
have open is ever overwritten. Killed before the link, the staged file is left for the next start to sweep;
killed after it, the part is there and the second name in `staging/` is swept likewise.
"""

import os
from pathlib import Path


def publish(staged: Path, final: Path) -> bool:
    """Make the staged file visible as `final`, through a power cut too. False where the name is taken.

    Both must be on one file system. Raises OSError; then `final` may or may not be there, and trying again
    is safe.
    """
    try:
        os.link(staged, final)
    except FileExistsError:
        return False
    except FileNotFoundError:
        # Made when first needed, not looked up each time; and made again if someone removed an empty day.
        make_folder(final.parent)
        os.link(staged, final)
    fsync_folder(final.parent)
    staged.unlink()
    return True


def make_folder(folder: Path) -> None:
    """Create the folder and its missing parents, each synced in its own parent before it is used."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_folder(folder.parent)


def fsync_file(path: Path) -> None:
    """Wait until the file's bytes are on the disk."""
    _fsync(path, os.O_RDONLY)


def fsync_folder(folder: Path) -> None:
    """Wait until the folder's names are on the disk: after a power cut a file can exist without its name."""
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
