"""Thread priorities: threads beside an event loop run at a lower one, so that requests do not wait for them.

Linux gives every thread its own priority. At the loop's, a thread that works outside the interpreter, or takes it back
after every step of the loop, has half of the core that the loop is on. Priorities are nice values relative to the
process: 0 is the event loop's, higher is later.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from collector.portable import core_time_ns, set_thread_priority, threads_have_priorities

# A third of the loop's CPU time. A flush works for most of a second: at 9,000 events a second on one core p99 was 74 to
# 98 ms, and 10 to 18 with this (`python -m bench paced --rate 9000`).
LOW_PRIORITY = 5

# A thirtieth of it, so in effect what the loop leaves: p99 is what it is without a flush (`python -m bench half`). But
# it is a thirtieth of any other program's too, and a thread that waits behind one may hold the interpreter, and
# the loop up, for half a second.
LOWEST_PRIORITY = 15


def lower_priority(priority: int = LOW_PRIORITY, thread: int | None = None) -> None:
    """Set the priority of a thread, by default the calling one, on Linux. Raises PermissionError.

    It can be raised again only where `may_raise_priority` says so.
    """
    set_thread_priority(priority, threading.get_native_id() if thread is None else thread)


def may_raise_priority() -> bool:
    """Whether a thread may raise its priority again: as root as a rule, with a RLIMIT_NICE any."""

    def tried() -> bool:
        with suppress(PermissionError):
            lower_priority(LOWEST_PRIORITY)
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
