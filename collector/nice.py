"""Nice threads: for what works beside an event loop, and can wait for it.

The kernel lets every thread have its own priority, and a thread that works outside the interpreter, or takes it back
after every step of the loop, would else have half of the core that the loop is on.
"""

import os
import threading

# A flush works for most of a second: at 9,000 events a second on one core p99 was 74 to 98 ms, and 10 to 12 with this
# (`python -m bench paced --rate 9000`). 10 gained no more. 15 did, of 100 sites 7 to 11 ms in place of 11 to 15; but
# its share of a busy core is a thirtieth, and a flush of 9,000 events a second needs more.
NICE = 5


def be_nice() -> None:
    """Lower the priority of the calling thread, for good."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)
