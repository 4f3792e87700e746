"""System calls that differ outside Linux, each with a substitute.

The collector is tested, measured and meant to run on Linux. On other systems (a developer's Mac) one worker serves with
the same promises. Features that need Linux raise `Unsupported`. No other module checks which system it runs on.
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

# Errors of F_FULLFSYNC on a file system that lacks it; fsync is the best there. Other errors come from the disk.
_NO_FULL_SYNC = frozenset({errno.ENOTSUP, errno.ENOTTY, errno.EINVAL})


class Unsupported(Exception):
    """This system lacks a feature; the message says what needs which system."""


def sync(descriptor: int) -> None:
    """Wait until the bytes and names of a file or folder are on the disk. Raises OSError."""
    # On macOS fsync leaves the data in the drive's cache (its fsync(2)); F_FULLFSYNC flushes that too.
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
    """Read from `offset` of a file into `into`. Return the number of bytes read. Raises OSError."""
    if hasattr(os, "preadv"):  # macOS has it since version 11
        return os.preadv(descriptor, [into], offset)
    data = os.pread(descriptor, len(into), offset)
    into[: len(data)] = data
    return len(data)


def usable_cores() -> int:
    """The number of cores that this process may use; outside Linux, the number that exist."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_memory(name: str, size_bytes: int) -> int:
    """A descriptor of zeroed memory that other processes can share. Raises Unsupported, OSError."""
    if not hasattr(os, "memfd_create"):
        raise Unsupported("several workers need Linux: they share memory that this system cannot hand over")
    file = os.memfd_create(name)
    os.ftruncate(file, size_bytes)
    return file


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the limit of file descriptors as close to `wanted` as allowed. Return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(soft, wanted if hard == resource.RLIM_INFINITY else min(hard, wanted))
    # macOS reports an infinite hard limit but accepts at most OPEN_MAX, 10,240.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def set_thread_priority(priority: int) -> None:
    """Set the nice value of the calling thread, relative to its process. Does nothing outside Linux."""
    # Outside Linux the id of a thread may be the id of another process.
    if LINUX and hasattr(os, "setpriority"):
        of_process = os.getpriority(os.PRIO_PROCESS, os.getpid())
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), of_process + priority)


def cpu_clock() -> int | None:
    """The clock (for `time.clock_gettime_ns`) of the calling thread's CPU time; None if the system has none."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.pthread_getcpuclockid(threading.get_ident())
