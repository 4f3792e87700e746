"""A disk whose power can be cut: an ext4 image on a loop device."""

import ctypes
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash.conftest import need

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN of the kernel's fs/ext4/ext4.h
NO_LOG_FLUSH = 2  # what the journal of the file system has not written is gone, as it is when the power is

IMAGE_BYTES = 64 << 20


class Disk:
    """A mounted file system of its own.

    With its journal, ext4 brings names to the disk in the order in which they were made, so that the sync of a part's
    folder can be left out and nothing is lost. Other file systems are not so kind, nor is ext4 without its journal.
    """

    def __init__(self, image: Path, folder: Path, *, journal: bool) -> None:
        self.folder = folder
        self._image = image
        self.journal = journal
        self._cut_image = image.with_suffix(".cut")

    def make(self) -> None:
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        features = [] if self.journal else ["-O", "^has_journal"]
        _run("mkfs.ext4", "-q", "-F", *features, str(self._image))
        self.folder.mkdir()
        mount(*self._mounted())

    def cut_power(self) -> None:
        """What was not synced will not be there after `power_on`. With a journal every write fails from now on.

        Without one nobody may write at this moment: what the disk has been given until now is copied.
        """
        if self.journal:
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                fcntl.ioctl(descriptor, SHUTDOWN, ctypes.c_uint32(NO_LOG_FLUSH))
            finally:
                os.close(descriptor)
        else:
            shutil.copyfile(self._image, self._cut_image)

    def power_on(self) -> None:
        """Mount what the cut left."""
        _run("umount", str(self.folder))
        if not self.journal:
            self._cut_image.replace(self._image)
            # Repairs a file system without a journal; exit code 1 says that there was something to repair.
            subprocess.run(["e2fsck", "-fy", str(self._image)], check=False, capture_output=True)
        _run("mount", *self._mounted())

    def _mounted(self) -> tuple[str, ...]:
        # commit=600: five seconds that pass bring nothing to the disk; noauto_da_alloc: nor does a rename.
        options = "loop,noauto_da_alloc" + (",commit=600" if self.journal else "")
        return ("-o", options, str(self._image), str(self.folder))


@contextmanager
def disk(folder: Path, *, journal: bool = True) -> Iterator[Disk]:
    """A fresh ext4, mounted at `folder/disk`. Skips, or fails under CI, where there is no root or no loop device."""
    need(os.geteuid() == 0, "root, to mount an ext4 image")
    need(bool(shutil.which("mkfs.ext4")), "mkfs.ext4")
    need(Path("/dev/loop-control").exists(), "loop devices")
    made = Disk(folder / "ext4", folder / "disk", journal=journal)
    made.make()
    try:
        yield made
    finally:
        subprocess.run(["umount", "--lazy", str(made.folder)], check=False, capture_output=True)


def mount(*arguments: str) -> None:
    """Mount something new. Skips, or fails under CI, where that is not allowed, as to root in a container."""
    done = subprocess.run(("mount", *arguments), capture_output=True, text=True, timeout=60, check=False)
    need(done.returncode == 0, f"the right to mount ({' '.join(done.stderr.splitlines()[:1])})")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
