"""Nice threads: for what works beside an event loop, and can wait for it.

The kernel lets every thread have its own priority, and a thread that works outside the interpreter, or takes it back
after every step of the loop, would else have half of the core that the loop is on.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from collector.portable import core_time_ns, set_thread_nice, threads_have_priorities

# A third of the loop's share. A flush works for most of a second: at 9,000 events a second on one core p99 was 74 to
# 98 ms, and 10 to 18 with this (`python -m bench paced --rate 9000`).
NICE = 5

# A thirtieth of it, so in effect what the loop leaves: p99 is what it is without a flush (`python -m bench half`). But
# it is a thirtieth of any other program's share too, and a thread that waits behind one may hold the interpreter, and
# the loop up, for half a second.
VERY_NICE = 15


def lower_priority(nice: int = NICE, thread: int | None = None) -> None:
    """Set how far a thread, by default the calling one, is behind its process, on Linux. Raises PermissionError.

    Nobody may bring a thread nearer again, unless `may_raise_priority` says so.
    """
    set_thread_nice(nice, threading.get_native_id() if thread is None else thread)


def may_raise_priority() -> bool:
    """Whether a thread that is nice may be as near as its process again: root's as a rule, with a RLIMIT_NICE any."""

    def tried() -> bool:
        with suppress(PermissionError):
            lower_priority(VERY_NICE)
            lower_priority(0)
            return True
        return False

    if not threads_have_priorities():
        return False
    with ThreadPoolExecutor(1) as thread:  # one to spare: it may not come back
        return thread.submit(tried).result()


class CoreTime(NamedTuple):
    """What a thread has had of a core since it began, and how long it was ready to run and had none, in nanoseconds."""

    ran_ns: int
    waited_ns: int


def core_time(thread: int) -> CoreTime | None:
    """Of a thread of this process. None: this kernel does not say."""
    found = core_time_ns(thread)
    return CoreTime(*found) if found else None
