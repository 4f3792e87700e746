"""A disk that can lose power: an ext4 image on a loop device."""

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
NO_LOG_FLUSH = 2  # discard what the file system's journal has not written yet, as a power cut does

IMAGE_BYTES = 64 << 20


class Disk:
    """A separate, mounted file system.

    With its journal, ext4 writes names to disk in the order of their creation, so a missing sync of a part's folder
    loses nothing. Other file systems do not guarantee that, nor does ext4 without its journal.
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
        """Discard everything not synced, as seen after `power_on`. With a journal, every later write fails.

        Without a journal this copies what has reached the image, so nothing may write at that moment.
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
        """Mount what survived the power cut."""
        _run("umount", str(self.folder))
        if not self.journal:
            self._cut_image.replace(self._image)
            # Without a journal the file system needs a repair; e2fsck exits with 1 if it repaired something.
            subprocess.run(["e2fsck", "-fy", str(self._image)], check=False, capture_output=True)
        _run("mount", *self._mounted())

    def _mounted(self) -> tuple[str, ...]:
        # commit=600: no periodic write-back every five seconds. noauto_da_alloc: no write-back on rename either.
        options = "loop,noauto_da_alloc" + (",commit=600" if self.journal else "")
        return ("-o", options, str(self._image), str(self.folder))


@contextmanager
def disk(folder: Path, *, journal: bool = True) -> Iterator[Disk]:
    """Mount a fresh ext4 at `folder/disk`. Without root or loop devices it skips, or fails under CI."""
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
    """Mount a file system. If that is not permitted, as in a container, it skips, or fails under CI."""
    done = subprocess.run(("mount", *arguments), capture_output=True, text=True, timeout=60, check=False)
    need(done.returncode == 0, f"the right to mount ({' '.join(done.stderr.splitlines()[:1])})")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr}"
