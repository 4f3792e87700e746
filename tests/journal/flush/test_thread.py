"""The thread that flushes work in: what priority it has, and when it gets another."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from collector.journal.flush import thread as flush_thread
from collector.journal.flush.thread import LOOK_S, FlushThread, Pressure
from collector.thread_priority import LOW_PRIORITY, LOWEST_PRIORITY, CoreTime, may_raise_priority
from tests.support import FakeClock

may = pytest.mark.skipif(not may_raise_priority(), reason="needs root, or a RLIMIT_NICE")


class Core:
    """What the kernel says of the event loop's thread."""

    def __init__(self) -> None:
        self.ran_ns = self.waited_ns = 0
        self.known = True

    def __call__(self) -> CoreTime | None:
        return CoreTime(self.ran_ns, self.waited_ns) if self.known else None

    def use(self, ran_s: float, waited_s: float) -> None:
        self.ran_ns += round(ran_s * 1e9)
        self.waited_ns += round(waited_s * 1e9)


@pytest.fixture
def core() -> Core:
    return Core()


class Work:
    """Something that takes as long as the test wants, in another thread."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.began = threading.Event()
        self.thread = 0

    def __call__(self, argument: str) -> str:
        self.thread = threading.get_native_id()
        self.began.set()
        assert self.go_on.wait(10)
        return argument

    @property
    def priority(self) -> int:
        return os.getpriority(os.PRIO_PROCESS, self.thread) - os.getpriority(os.PRIO_PROCESS, os.getpid())


@asynccontextmanager
async def in_flight(thread: FlushThread, work: Work, pressure: Pressure) -> AsyncIterator[None]:
    """The thread works, and its priority was chosen."""
    call = asyncio.create_task(thread.call(work, "done", pressure))
    try:
        assert await asyncio.to_thread(work.began.wait, 10)
        yield
    finally:
        work.go_on.set()
        assert "done" == await call


async def look_again(clock: FakeClock) -> None:
    clock.advance(LOOK_S)
    for _ in range(5):
        await asyncio.sleep(0)


class Time:
    """What is over of it, as the test says."""

    def __init__(self) -> None:
        self.over = 0.0

    def __call__(self) -> float:
        return self.over


@may
async def test_priority_of_a_flush_rises_as_the_next_one_nears(clock: FakeClock, core: Core) -> None:
    pressure = Time()
    async with in_flight(FlushThread(clock, core), work := Work(), pressure):
        priority = []
        for pressure.over in (0, 0.39, 0.4, 0.59, 0.6, 1, 0):
            await look_again(clock)
            priority.append(work.priority)
    assert [LOWEST_PRIORITY, LOWEST_PRIORITY, LOW_PRIORITY, LOW_PRIORITY, 0, 0, LOWEST_PRIORITY] == priority


@may
async def test_flush_is_not_starved_beside_another_program(clock: FakeClock, core: Core) -> None:
    """Priority inversion: the loop would wait for the GIL, whose holder waits for a CPU."""
    pressure = Time()
    async with in_flight(FlushThread(clock, core), work := Work(), pressure):
        priority = []
        for waited_s in (0.2, 1, 0.2):
            core.use(ran_s=1, waited_s=waited_s)
            await look_again(clock)
            priority.append(work.priority)
        assert [LOWEST_PRIORITY, LOW_PRIORITY, LOWEST_PRIORITY] == priority
        core.use(ran_s=1, waited_s=1)
        pressure.over = 0.6
        await look_again(clock)
        assert 0 == work.priority


@may
async def test_what_the_loop_waited_before_a_flush_counts(clock: FakeClock, core: Core) -> None:
    thread = FlushThread(clock, core)
    async with in_flight(thread, work := Work(), Time()):
        await look_again(clock)
        assert LOWEST_PRIORITY == work.priority
    core.use(ran_s=1, waited_s=1)
    async with in_flight(thread, work := Work(), Time()):
        assert LOW_PRIORITY == work.priority


@may
async def test_where_nobody_knows_of_other_programs_it_is_not_starved(clock: FakeClock, core: Core) -> None:
    core.known = False
    async with in_flight(FlushThread(clock, core), work := Work(), Time()):
        await look_again(clock)
        assert LOW_PRIORITY == work.priority


async def test_where_the_priority_cannot_be_raised_it_is_always_the_same(
    clock: FakeClock, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flush_thread, "may_raise_priority", lambda: False)
    pressure = Time()
    async with in_flight(FlushThread(clock, core), work := Work(), pressure):
        for pressure.over in (0, 1):
            await look_again(clock)
            assert LOW_PRIORITY == work.priority


@may
async def test_right_that_is_lost_costs_no_flush(clock: FakeClock, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    thread, pressure = FlushThread(clock, core), Time()

    def refuse(which: int, who: int, priority: int) -> None:
        raise PermissionError

    async with in_flight(thread, work := Work(), pressure):
        await look_again(clock)
        monkeypatch.setattr(os, "setpriority", refuse)
        pressure.over = 1
        await look_again(clock)
        assert LOWEST_PRIORITY == work.priority
        monkeypatch.undo()
        await look_again(clock)
        assert 0 == work.priority


async def test_priority_is_not_adjusted_after_the_flush(clock: FakeClock, core: Core) -> None:
    thread, asked = FlushThread(clock, core), []

    def pressure() -> float:
        asked.append(work.priority)
        return 0.0

    async with in_flight(thread, work := Work(), pressure):
        await look_again(clock)
    then = len(asked)
    for _ in range(3):
        await look_again(clock)
    assert then == len(asked)
    assert bool(then) == may_raise_priority()


async def test_cpu_time_is_that_of_what_is_running(clock: FakeClock) -> None:
    thread = FlushThread(clock)
    assert thread.cpu_ns() is None
    async with in_flight(thread, Work(), Time()):
        before = thread.cpu_ns()
    assert before is not None
    assert thread.cpu_ns() is None

    def spin(cpu_s: float) -> int:
        until = time.thread_time() + cpu_s
        while time.thread_time() < until:
            pass
        return thread.cpu_ns() or 0

    assert await thread.call(spin, 0.01, Time()) >= before + 10_000_000


async def test_what_fails_there_fails_here(clock: FakeClock) -> None:
    def fail(argument: str) -> None:
        raise OSError(argument)

    thread = FlushThread(clock)
    with pytest.raises(OSError, match="No space left"):
        await thread.call(fail, "No space left", Time())
    assert "next" == await thread.call(str, "next", Time())
