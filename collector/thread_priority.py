"""Thread priorities: background threads run at a lower priority than the event loop, so requests do not wait for them.

On Linux every thread has its own priority. A background thread at the event loop's priority takes half of their shared
core, if it runs without the GIL, or takes the GIL back after every step of the loop. Priorities are nice values
relative to the process. The event loop has 0; a higher value means a lower priority.
"""

from collector.portable import set_thread_priority

# A thread at 5 gets a third of the loop's CPU time. At 9,000 events a second on one core, where a flush works for most
# of a second, p99 fell from 74-98 ms to 10-18 ms (`python -m bench paced --rate 9000`). The value is fixed. In eight
# cases of 1 to 1,000 sites it used 0.97 to 1.08 times the CPU per event of a priority that rises before a flush is due,
# which is noise. Its p99 was worse only with bodies of 8 KB at saturation: 41 ms instead of 33 ms.
LOW_PRIORITY = 5


def lower_priority() -> None:
    """Give the calling thread LOW_PRIORITY, on Linux."""
    set_thread_priority(LOW_PRIORITY)
