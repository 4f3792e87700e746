"""Thread priorities, as the kernel reports them."""

import os
import threading

from collector.thread_priority import LOW_PRIORITY, lower_priority


def test_thread_has_a_lower_priority_than_its_process() -> None:
    of: dict[str, int] = {}

    def look() -> None:
        lower_priority()
        of["thread"], of["process"] = (os.getpriority(os.PRIO_PROCESS, number) for number in (0, os.getpid()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert LOW_PRIORITY == of["thread"] - of["process"]
