"""System calls that differ outside Linux, each with what is done there instead.

Linux is what the collector is tested and measured on, and where it belongs. Elsewhere (a developer's Mac) one worker
serves, with the same promises; what cannot be had there is refused in words (`Unsupported`). No other module asks which
system it runs on.
"""

import errno
import fcntl
import os
import resource
import sys
import threading
import time
from contextlib import suppress

LINUX = sys.platform == "linux"

# Of fcntl on a file system that has no such flush: then fsync is all there is. Any other error is the disk's.
_NO_FULL_SYNC = frozenset({errno.ENOTSUP, errno.ENOTTY, errno.EINVAL})


class Unsupported(Exception):
    """This system cannot do it; the message says what needs which system."""


def sync(descriptor: int) -> None:
    """Wait until the bytes and names of a file or folder are on the disk. Raises OSError."""
    # macOS's fsync leaves them in the cache of the drive (its fsync(2)); F_FULLFSYNC does not.
    if hasattr(fcntl, "F_FULLFSYNC"):
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as exc:
            if exc.errno not in _NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(descriptor)


def sync_data(descriptor: int) -> None:
    """Wait until the bytes of a file, and its size, are on the disk. Raises OSError."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        sync(descriptor)


def read_at(descriptor: int, into: memoryview, offset: int) -> int:
    """Fill `into` from that place of a file; how many bytes there were. Raises OSError."""
    if hasattr(os, "preadv"):  # macOS has it since version 11
        return os.preadv(descriptor, [into], offset)
    data = os.pread(descriptor, len(into), offset)
    into[: len(data)] = data
    return len(data)


def usable_cores() -> int:
    """How many cores this process may use; elsewhere, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_memory(name: str, size_bytes: int) -> int:
    """A descriptor of memory that can be handed to other processes, all zeros. Raises Unsupported, OSError."""
    if not hasattr(os, "memfd_create"):
        raise Unsupported("several workers need Linux: they share memory that this system cannot hand over")
    file = os.memfd_create(name)
    os.ftruncate(file, size_bytes)
    return file


def raise_descriptor_limit(wanted: int) -> int:
    """Ask for so many file descriptors; how many this process may have now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft, wanted if hard == resource.RLIM_INFINITY else min(hard, wanted))
    # macOS says that the limit is infinite, and takes no more than OPEN_MAX, 10,240.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def set_thread_priority(priority: int) -> None:
    """Set the nice value of the calling thread, relative to its process, on Linux; elsewhere nothing."""
    # Elsewhere the number of a thread may be another process's.
    if LINUX and hasattr(os, "setpriority"):
        of_process = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), of_process + priority)


def cpu_clock() -> int | None:
    """A clock (for `time.clock_gettime_ns`) of what the calling thread uses of a core. None: there is none."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.pthread_getcpuclockid(threading.get_ident())
