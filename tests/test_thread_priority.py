"""Priorities of threads, as the kernel has them."""

import os
import subprocess
import sys
import threading
import time

import pytest

from collector.thread_priority import LOW_PRIORITY, core_time, lower_priority, may_raise_priority

NOBODY = 65534

ASK = f"""
import os, resource, sys
from collector.thread_priority import may_raise_priority
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NICE, (limit, limit))
if os.getuid() == 0:
    os.setgid({NOBODY})
    os.setuid({NOBODY})
print(may_raise_priority())
"""


@pytest.mark.parametrize(("limit", "may"), [(0, False), (20, True)])
def test_who_may_raise_a_priority_depends_on_the_limit(limit: int, may: bool) -> None:
    """As the unit sets it; the kernel counts from 20 down."""
    asked = subprocess.run([sys.executable, "-c", ASK, str(limit)], capture_output=True, text=True, check=False)
    if "not allowed to raise maximum limit" in asked.stderr:
        pytest.skip("needs the capability CAP_SYS_RESOURCE, or a RLIMIT_NICE to begin with")
    assert f"{may}\n" == asked.stdout, asked.stderr


def test_to_ask_leaves_the_asking_thread_as_it_is() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    may_raise_priority()
    assert before == os.getpriority(os.PRIO_PROCESS, 0)


def test_thread_has_a_lower_priority_than_its_process() -> None:
    of: dict[str, int] = {}

    def look() -> None:
        lower_priority()
        of["thread"], of["process"] = (os.getpriority(os.PRIO_PROCESS, number) for number in (0, os.getpid()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert LOW_PRIORITY == of["thread"] - of["process"]


def test_core_time_is_told_of_a_thread() -> None:
    before = core_time(threading.get_native_id())
    if before is None:
        pytest.skip("this kernel keeps no schedstat")
    until = time.thread_time_ns() + 20_000_000
    while time.thread_time_ns() < until:
        pass
    after = core_time(threading.get_native_id())
    assert after is not None
    assert after.ran_ns - before.ran_ns >= 15_000_000
    assert after.waited_ns >= before.waited_ns


def test_core_time_of_no_thread_is_not_known() -> None:
    assert core_time(0) is None
