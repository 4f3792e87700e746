"""Thread priorities: threads beside an event loop run at a lower one, so that requests do not wait for them.

Linux gives every thread its own priority. At the loop's, a thread that works outside the interpreter, or takes it back
after every step of the loop, has half of the core that the loop is on. Priorities are nice values relative to the
process: 0 is the event loop's, higher is later.
"""

from collector.portable import set_thread_priority

# A third of the loop's CPU time. A flush works for most of a second: at 9,000 events a second on one core p99 was 74 to
# 98 ms, and 10 to 18 with this (`python -m bench paced --rate 9000`). It is fixed: against a priority that rises as the
# next flush comes near, CPU per event was 0.97 to 1.08 times as much, which is noise, in eight cases of 1 to 1,000
# sites. p99 was worse only with bodies of 8 KB: 41 ms and not 33, at saturation.
LOW_PRIORITY = 5


def lower_priority() -> None:
    """Give the calling thread LOW_PRIORITY, on Linux."""
    set_thread_priority(LOW_PRIORITY)
