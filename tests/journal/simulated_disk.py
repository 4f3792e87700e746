"""A simulated disk: its calls can fail, the process can die in one, and its power can be cut.

It works on a real folder. The system calls by which the collector changes that folder go through a SimulatedDisk, which
records what was synced. A power cut resets the folder to that, plus a part of the rest, which the kernel may have
written already:

    bytes of a file after its last sync     any prefix of them, zeros up to or from some byte, or an older file's bytes
    a truncation that was not synced        the file before it, or after it
    a name made or deleted without a sync   there or not, independently of others

After a failed fsync the bytes are in the cache, marked clean, but not on the disk. A later sync does not write them
(https://lwn.net/Articles/752063/). Arrow writes parts without these calls, so only the sync of a part can fail.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

CALLS = ("open", "write", "truncate", "sync", "link", "unlink", "mkdir", "read")
"""The calls that can fail. The process can die in each of them."""

Tree = dict[str, "bytes | Tree"]


class Killed(BaseException):
    """The process died in this call. Not an Exception, because `except Exception` does not stop a SIGKILL."""


@dataclass(slots=True)
class Fault:
    """How a call fails."""

    call: str
    code: int
    after: int  # number of calls that still succeed
    times: int  # number of calls that then fail
    written: float = 0  # the share of a write that reaches the file before it fails


class SimulatedDisk:
    """The folder below `root`, which must be empty. Not thread-safe."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.faults: list[Fault] = []
        self.calls_to_live: int | None = None  # the process dies in the call after these; None: it does not die
        self.is_dead = False  # the process has died: no call reaches the disk
        self.is_watching = True  # otherwise calls go straight to the folder
        self.segment_sync_failed = False  # in this process
        self.segment_cut_failed = False  # in this process: the bytes of a failed commit may still be in the file
        self._descriptors: dict[int, Path] = {}  # of the process; paths below root
        self._bytes: dict[int, bytes] = {}  # what is on the disk of each file, by inode
        self._names: dict[int, dict[str, int]] = {}  # what is on the disk of each folder: names and inodes
        self._truncated: dict[int, list[bytes]] = {}  # contents before truncations that are not synced
        self._dropped: dict[int, list[tuple[int, int]]] = {}  # bytes that a failed sync marked clean
        self._held: dict[int, int] = {}  # open descriptors by inode, so that no inode number is reused
        self._open, self._close, self._write, self._truncate = os.open, os.close, os.write, os.ftruncate
        self._link, self._unlink, self._mkdir, self._preadv = os.link, os.unlink, os.mkdir, os.preadv
        for name, ours in (
            ("open", self._do_open),
            ("close", self._do_close),
            ("write", self._do_write),
            ("ftruncate", self._do_truncate),
            ("link", self._on_path("link", self._link)),
            ("unlink", self._on_path("unlink", self._unlink)),
            ("mkdir", self._on_path("mkdir", self._mkdir)),
            ("preadv", self._do_read),
            ("fsync", self._do_sync),
            ("fdatasync", self._do_sync),
        ):
            patch.setattr(os, name, ours, raising=False)
        patch.delattr(fcntl, "F_FULLFSYNC", raising=False)  # a Mac's sync

    def kill(self) -> None:
        """End the process, if it has not died yet, and close its descriptors."""
        self.is_dead = True
        for descriptor in self._descriptors:
            self._close(descriptor)
        self._descriptors.clear()

    def start(self, calls_to_live: int | None) -> None:
        """Start another process."""
        self.calls_to_live = calls_to_live
        self.is_dead = self.segment_sync_failed = self.segment_cut_failed = False

    def cut_power(self, random: Random) -> None:
        """Keep what was synced, and a random part of the rest."""
        tree = self._surviving(self.root, random)
        self.forget()
        with self.not_watching():
            shutil.rmtree(self.root)
        self._mkdir(self.root)
        self._plant(self.root, tree)

    @contextmanager
    def not_watching(self) -> Iterator[None]:
        """Let the calls of the test itself pass."""
        self.is_watching = False
        try:
            yield
        finally:
            self.is_watching = True

    def forget(self) -> None:
        """Close all descriptors, and forget what is on the disk."""
        for descriptor in self._held.values():
            self._close(descriptor)
        for known in (self._held, self._bytes, self._names, self._truncated, self._dropped):
            known.clear()

    # The calls.

    def _begin(self, call: str) -> Fault | None:
        """Return how this call fails, or None. Raises Killed."""
        if not self.is_watching:
            return None
        if self.calls_to_live is not None and not self.is_dead:
            if self.calls_to_live == 0:
                self.is_dead, self.calls_to_live = True, None
            else:
                self.calls_to_live -= 1
        if self.is_dead:
            raise Killed
        for fault in self.faults:
            if fault.call == call:
                if fault.after:
                    fault.after -= 1
                    return None
                fault.times -= 1
                if not fault.times:
                    self.faults.remove(fault)
                return fault
        return None

    def _fail(self, call: str) -> None:
        fault = self._begin(call)
        if fault is not None:
            raise OSError(fault.code, os.strerror(fault.code))

    def _is_ours(self, path: Any) -> bool:
        return self.is_watching and isinstance(path, str | Path) and Path(path).is_relative_to(self.root)

    def _do_open(self, path: Any, flags: int, mode: int = 0o777, **where: Any) -> int:
        if not self._is_ours(path):
            return self._open(path, flags, mode, **where)
        self._fail("open")
        descriptor = self._open(path, flags, mode)
        self._descriptors[descriptor] = Path(path)
        return descriptor

    def _do_close(self, descriptor: int) -> None:
        self._descriptors.pop(descriptor, None)
        self._close(descriptor)

    def _do_write(self, descriptor: int, data: Any) -> int:
        if descriptor not in self._descriptors:
            return self._write(descriptor, data)
        lived = not self.is_dead
        try:
            fault = self._begin("write")
        except Killed:
            if lived:
                self._write(descriptor, data[: len(data) // 2])
            raise
        if fault is None:
            return self._write(descriptor, data)
        written = data[: int(len(data) * fault.written)]
        if len(written):
            self._write(descriptor, written)
        if fault.code:
            raise OSError(fault.code, os.strerror(fault.code))
        return len(written)  # a short write

    def _do_truncate(self, descriptor: int, length: int) -> None:
        if descriptor in self._descriptors:
            inode, now = self._inode(descriptor), _content(descriptor)
            self.segment_cut_failed = True  # until it succeeds
            self._fail("truncate")
            self._truncated.setdefault(inode, []).append(now)
            self._dropped[inode] = [(start, end) for start, end in self._dropped.get(inode, ()) if end <= length]
            self.segment_cut_failed = False
        self._truncate(descriptor, length)

    def _do_sync(self, descriptor: int) -> None:
        path = self._descriptors.get(descriptor)
        if path is None:  # outside the simulated disk
            return
        inode = self._inode(descriptor)
        is_segment = path.suffix == ".segment"
        try:
            self._fail("sync")
        except OSError:
            self.segment_sync_failed |= is_segment
            if not path.is_dir():
                if inode in self._truncated:
                    self.segment_cut_failed = True
                size = os.fstat(descriptor).st_size
                self._dropped.setdefault(inode, []).append((len(self._bytes.get(inode, b"")), size))
            raise
        self._note(descriptor, path)

    def _do_read(self, descriptor: int, buffers: Any, offset: int) -> int:
        self._fail("read")
        return self._preadv(descriptor, buffers, offset)

    def _on_path(self, call: str, function: Callable[..., None]) -> Callable[..., None]:
        def called(path: Any, *arguments: Any, **keywords: Any) -> None:
            if self._is_ours(path):
                self._fail(call)
            function(path, *arguments, **keywords)

        return called

    # What is on the disk.

    def _inode(self, descriptor: int) -> int:
        inode = os.fstat(descriptor).st_ino
        if inode not in self._held:
            self._held[inode] = os.dup(descriptor)
        return inode

    def _note(self, descriptor: int, path: Path) -> None:
        """Record that the file or folder is on the disk as it is now."""
        inode = self._inode(descriptor)
        if path.is_dir():
            self._names[inode] = {}
            for entry in _entries(path):
                held = self._open(entry, os.O_RDONLY)
                self._names[inode][entry.name] = self._inode(held)
                self._close(held)
        else:
            self._bytes[inode] = self._written(inode, _content(descriptor))
            self._truncated.pop(inode, None)

    def _written(self, inode: int, content: bytes) -> bytes:
        """Return the content, with zeros for what a failed sync dropped."""
        for start, end in self._dropped.get(inode, ()):
            content = content[:start] + bytes(len(content[start:end])) + content[end:]
        return content

    def _surviving(self, folder: Path, random: Random) -> Tree:
        on_disk = self._names.get(os.stat(folder).st_ino, {})
        now = {entry.name: entry.stat().st_ino for entry in _entries(folder)}
        tree: Tree = {}
        for name in sorted(on_disk.keys() | now.keys()):
            inode = random.choice((on_disk.get(name), now.get(name)))
            if inode is None:
                continue
            path = folder / name
            if inode != now.get(name):
                tree[name] = self._bytes.get(inode, b"")
            elif path.is_dir():
                tree[name] = self._surviving(path, random)
            else:
                tree[name] = self._surviving_bytes(inode, path.read_bytes(), random)
        return tree

    def _surviving_bytes(self, inode: int, now: bytes, random: Random) -> bytes:
        on_disk = self._bytes.get(inode, b"")
        content = self._written(inode, random.choice((now, *self._truncated.get(inode, ()))))
        rest = content[len(on_disk) :]
        if not rest:
            return random.choice((on_disk, content))
        at = random.choice((0, len(rest), random.randint(0, len(rest))))
        zeros = bytes(len(rest))
        older = random.choice(sorted(self._bytes.values()) or [b""])[len(on_disk) : len(content)]
        return on_disk + random.choice((rest[:at], rest[:at] + zeros[at:], zeros[:at] + rest[at:], older))

    def _plant(self, folder: Path, tree: Tree) -> None:
        for name, content in tree.items():
            path = folder / name
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                self._mkdir(path)
                self._plant(path, content)
        for path in (*(path for path in _entries(folder) if path.is_file()), folder):
            descriptor = self._open(path, os.O_RDONLY)
            self._note(descriptor, path)
            self._close(descriptor)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _entries(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir()))


FAULTS = {
    "open": (errno.ENOSPC, errno.EMFILE),
    "write": (errno.ENOSPC, errno.EIO, 0),
    "truncate": (errno.EIO,),
    "sync": (errno.EIO,),
    "link": (errno.ENOSPC, errno.EIO),
    "unlink": (errno.EIO,),
    "mkdir": (errno.ENOSPC,),
    "read": (errno.EIO,),
}
"""The errors of each call; 0 is a short write."""
