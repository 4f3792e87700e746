"""A model of the journal: whatever fails, and whenever the process dies, an acknowledged event becomes one row.

Hypothesis runs the real stages of a worker, from `Journal.append` to the published part. The disk fails, the process
dies in a call or between two, the power is cut, and another process starts. The model is the set of events that were
sent, acknowledged and refused. Before every start and at the end a recovery of a copy of the folder must give every
acknowledged event exactly once, no event that was not sent, and no refused one. A batch is there whole or not at all,
and the answers of acknowledged batches with it.

Everything runs in one thread, so that a failure can be repeated. `TORTURE=1` runs many more
examples with new seeds, for a quarter of an hour:

    TORTURE=1 .venv/bin/python -m pytest tests/journal/test_model.py
"""

import asyncio
import itertools
import json
import logging
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from errno import EIO, ENOSPC
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from collector.daemon.wiring import build_stages
from collector.events import Event
from collector.journal.record import HEADER_BYTES, Record, scan
from collector.journal.segment import SEGMENT_NAME, SegmentBroken
from collector.journal.submission import AwaitedBatch
from tests.crash.conftest import LONG, times
from tests.crash.rounds import SITES, Ledger, came_back, published, verdict
from tests.journal.flush.test_segment_flush import stored
from tests.journal.simulated_disk import FAULTS, Fault, Killed, SimulatedDisk
from tests.support import FakeClock, body, config

P = ParamSpec("P")
T = TypeVar("T")

# Smaller than the settings allow: some six events fill a segment, and five segments the journal.
SEGMENT_MAX_BYTES = 10_000
JOURNAL_MAX_BYTES = 50_000

STOP_PATIENCE_S = 15  # on a fake clock
# A commit makes two calls; a start, or the flush of a part, about ten.
CALLS_TO_LIVE = st.integers(0, 6) | st.integers(7, 30)
CHANCE = st.integers(0, 9_999)  # seeds what survives a power cut
MOST_TURNS = 10_000  # turns of the event loop, after which a task counts as stuck


Answers = list[tuple[bytes, bytes]]


class HastyClock(FakeClock):
    """A clock on which every sleep ends at once, and the time has passed."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


class SameThread(Executor):
    """Replaces the threads of the collector: runs each call at once, in the thread of the test."""

    def __init__(self, *arguments: object, **keywords: object) -> None:
        pass

    def submit(self, function: Callable[P, T], /, *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(function(*arguments, **keywords))
        except BaseException as exc:  # noqa: BLE001 - the caller gets it
            future.set_exception(exc)
        return future

    def call(self, function: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.wrap_future(self.submit(function, *arguments))

    def stop(self) -> None:
        pass


class Process:
    """A worker without sockets and timers, which can be abandoned at any turn of its event loop."""

    def __init__(
        self, data_dir: Path, durability: str, new_id: Callable[[], str], remember: Callable[[Answers], None]
    ) -> None:
        made = config(data_dir, {site: {} for site in SITES}, storage={"durability": durability})
        limits = {"segment_max_bytes": SEGMENT_MAX_BYTES, "journal_max_bytes": JOURNAL_MAX_BYTES}
        storage = made.storage.model_copy(update=limits)  # model_copy does not check the limits
        self.stages = build_stages(made.model_copy(update={"storage": storage}), HastyClock())
        self.stages.store.new_id = new_id
        self.stages.keys.tend = lambda: None  # type: ignore[method-assign]  # keys are random, so no run could be repeated
        self.stages.flush_segment._remember = remember
        self._errors: list[BaseException] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._note(context.get("exception")))

    def begin(self, step: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(step)
        task.add_done_callback(lambda done: self._note(None if done.cancelled() else done.exception()))
        return task

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        """Run all tasks until they end. Returns the result of this step. Raises Killed."""
        task = self.begin(step)
        self.settle()
        return task.result()

    def settle(self) -> None:
        """Run all tasks until they end."""
        for _ in range(MOST_TURNS):
            if not asyncio.all_tasks(self._loop):
                break
            self.turn(1)
        else:
            pytest.fail(f"never ends: {asyncio.all_tasks(self._loop)}")
        if self._errors:
            raise self._errors[0]

    def turn(self, count: int) -> None:
        """Run this many turns of the event loop."""
        for _ in range(count):
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()

    def end(self) -> None:
        """Cancel all tasks, and close the event loop."""
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self.settle()
        self._loop.close()

    def _note(self, exc: BaseException | None) -> None:
        if exc is not None and not isinstance(exc, Killed):
            self._errors.append(exc)


def alive(model: "JournalModel") -> bool:
    return model.process is not None


class JournalModel(RuleBasedStateMachine):
    """One data_dir, the processes that use it in turn, and the responses that their clients got."""

    def __init__(self, folder: Path, durability: str, *, compress: bool) -> None:
        super().__init__()
        self._data_dir, self._copy = folder / "data", folder / "copy"
        self._data_dir.mkdir()
        self._durability = durability
        self._patch = pytest.MonkeyPatch()
        self.disk = SimulatedDisk(self._data_dir, self._patch)
        if compress:  # as with many sites: a segment has compressed and uncompressed columns, and waiting rows
            self._patch.setattr("collector.journal.buffer.BATCH_ROWS", 2)
            self._patch.setattr("collector.journal.buffer.COMPRESSED_FROM_PARTS", len(SITES))
        self._patch.setattr("collector.journal.journal.GATHER_S", 0)
        # A batch is encoded, written and buffered in several steps.
        self._patch.setattr("collector.journal.journal.ENCODED_AT_ONCE_BYTES", 3_000)
        self._patch.setattr("collector.journal.journal.TAKEN_OVER_AT_ONCE", 2)
        self._patch.setattr("collector.journal.journal.UNJOINED", SameThread())
        self._patch.setattr("collector.journal.journal.CallThread", SameThread)
        self._patch.setattr("collector.journal.flush.thread.ThreadPoolExecutor", SameThread)
        ids = itertools.count(1)
        self._new_id = lambda: f"{next(ids):016x}"
        self._ledger = Ledger()
        self._safe: set[str] = set()  # acknowledged events that a power cut must not lose, with durability `write`
        self._tried: set[str] = set()  # events refused after a commit was tried
        self._may_return: set[str] = set()  # refused events that the disk did not let the journal remove
        self._batches: dict[bytes, set[str]] = {}  # the session ids of each batch that was sent, by its key
        self._may_be_split: set[bytes] = set()  # batches that a power cut may have split, with durability `write`
        self._remembered: dict[bytes, bytes] = {}  # answers that processes have handed out, by the batch's key
        self.process: Process | None = None

    @property
    def _running(self) -> Process:
        assert self.process is not None
        return self.process

    @initialize()
    def first_start(self) -> None:
        self.recover(power_cut=False, chance=0, repaired=True, calls_to_live=None)

    @precondition(alive)
    @rule(site=st.sampled_from(SITES), count=st.integers(1, 6), text=st.sampled_from((0, 900)))
    def append(self, site: str, count: int, text: int) -> None:
        """Send events. They are acknowledged or refused in later turns."""
        for _ in range(count):
            session_id = self._ledger.next_id()
            data = body(session_id=session_id, page_referrer=text * "x")
            self._running.begin(self._send(session_id, stored(site, len(self._ledger.sent), data)))

    @precondition(alive)
    @rule(count=st.integers(1, 12), text=st.sampled_from((0, 900)), then_commits=st.booleans())
    def append_batch(self, count: int, text: int, then_commits: bool) -> None:
        """Send a batch. The largest is larger than a segment."""
        sent = [self._ledger.next_id() for _ in range(count)]
        first = len(self._ledger.sent)
        bodies = [body(session_id=session_id, page_referrer=text * "x") for session_id in sent]
        events = [stored(SITES[number % 2], first + number, data) for number, data in enumerate(bodies)]
        key = sent[0].encode()
        self._batches[key] = set(sent)
        self._running.begin(self._send_batch(sent, events, key))
        if then_commits:
            self.commit()

    @precondition(alive)
    @rule(count=st.integers(1, 6))
    def append_and_commit(self, count: int) -> None:
        self.append("a", count, 900)
        self.commit()

    @precondition(alive)
    @rule(count=st.integers(1, 6), turns=st.integers(1, 12), seals_first=st.booleans())
    def append_and_publish(self, count: int, turns: int, seals_first: bool) -> None:
        """Change segments before, during or after a commit."""
        if seals_first:
            self.seal()
        self.append("b", count, 0)
        self.turn(turns)
        if alive(self) and not seals_first:
            self.seal()
        if alive(self):
            self.flush()

    async def _send(self, session_id: str, event: Event) -> None:
        journal = self._running.stages.journal
        is_tried = journal.can_append()
        self._answered([session_id], is_tried, await journal.append(event))

    async def _send_batch(self, sent: list[str], events: list[Event], key: bytes) -> None:
        journal = self._running.stages.journal
        is_tried = journal.can_append()
        batch = AwaitedBatch(events, key, _answer_of(key))
        if is_tried:
            journal.submit(batch)
        self._answered(sent, is_tried, is_tried and await batch.stored)

    def _answered(self, sent: list[str], is_tried: bool, is_stored: bool) -> None:
        if self.disk.is_dead:  # the client gets no response
            return
        for session_id in sent:
            self._ledger.answered(session_id, 201 if is_stored else 503)
        if is_tried and not is_stored:
            self._tried.update(sent)
            if self.disk.segment_cut_failed:
                self._may_return.update(sent)

    def _remember(self, answers: Answers) -> None:
        if self.disk.is_dead:
            raise Killed
        self._remembered.update(answers)

    @precondition(alive)
    @rule(count=st.integers(1, 12))
    def turn(self, count: int) -> None:
        """Stop in the middle of whatever is running."""
        self._running.turn(count)
        self._bury_if_dead()

    @precondition(alive)
    @rule()
    def commit(self) -> None:
        """Wait until nothing is running."""
        self._settle()

    @precondition(alive)
    @rule()
    def seal(self) -> None:
        self._running.begin(self._running.stages.journal.seal())

    @precondition(alive)
    @rule()
    def flush(self) -> None:
        self._settle()  # only one flush may run at a time
        if alive(self):
            self._running.begin(self._running.stages.flusher.flush())

    @precondition(alive)
    @rule()
    def retry(self) -> None:
        """Do what the worker does every half second."""
        journal = self._running.stages.journal

        async def look_and_retry() -> None:
            await journal.look()
            await journal.retry()

        self._running.begin(look_and_retry())

    @precondition(alive)
    @rule(
        fault=st.sampled_from([(call, code) for call, codes in FAULTS.items() for code in codes]),
        after=st.integers(0, 2),
        how_often=st.integers(1, 3),
        written=st.sampled_from((0, 0.5, 0.99)),
    )
    def fail(self, fault: tuple[str, int], after: int, how_often: int, written: float) -> None:
        """Make some calls fail from now on."""
        call, code = fault
        if call == "read":
            how_often = 1  # after repeated failures the block is given up, and its events are lost
        self.disk.faults = [other for other in self.disk.faults if other.call != call]
        self.disk.faults.append(Fault(call, code, after, how_often, written))

    @precondition(alive)
    @rule(
        fault=st.sampled_from((("write", ENOSPC), ("write", 0), ("sync", EIO))),
        how_often=st.integers(1, 2),
        written=st.sampled_from((0, 0.5, 0.99)),
        count=st.integers(1, 6),
        taken_back=st.booleans(),
        then=st.sampled_from(("go on", "retry", "stop", "lose power")),
        chance=CHANCE,
    )
    def fail_in_a_commit(
        self,
        fault: tuple[str, int],
        how_often: int,
        written: float,
        count: int,
        taken_back: bool,
        then: str,
        chance: int,
    ) -> None:
        """Make a commit fail, and maybe the truncation that undoes it."""
        self._settle()
        if alive(self):
            self.fail(fault, 0, how_often, written)
            if not taken_back:
                self.fail(("truncate", EIO), 0, 1, 0)
            self.append_and_commit(count)
        if alive(self) and then == "retry":
            self.retry()
            self._settle()
            if alive(self):
                self.append_and_commit(count)
        if alive(self) and then == "stop":
            self.stop()
        if alive(self) and then == "lose power":
            self.lose_power(chance)

    @precondition(alive)
    @rule(
        fault=st.sampled_from((("sync", EIO), ("open", ENOSPC), ("link", EIO), ("unlink", EIO))),
        after=st.integers(0, 4),
        count=st.integers(1, 6),
    )
    def fail_in_a_flush(self, fault: tuple[str, int], after: int, count: int) -> None:
        self.append_and_commit(count)
        if alive(self):
            self.seal()
            self._settle()
        if alive(self):
            self.fail(fault, after, 1, 0)
            self.flush()

    @precondition(lambda model: alive(model) and model.disk.calls_to_live is None)
    @rule(calls=CALLS_TO_LIVE)
    def die_in_a_call(self, calls: int) -> None:
        """Make the process die in the middle of one of its next calls."""
        self.disk.calls_to_live = calls

    @precondition(alive)
    @rule()
    def kill(self) -> None:
        self.disk.is_dead = True
        self._bury_if_dead()

    @precondition(alive)
    @rule(chance=CHANCE, seals_first=st.booleans())
    def lose_power(self, chance: int, seals_first: bool = False) -> None:
        """Cut the power now, or after a change of segments, which syncs with durability `write` too."""
        if seals_first:
            self.seal()
            self._settle()
        if alive(self):
            self.kill()
        self.recover(power_cut=True, chance=chance, repaired=True, calls_to_live=None)

    @precondition(alive)
    @rule(count=st.integers(1, 6), calls=st.integers(0, 3), chance=CHANCE)
    def lose_power_in_a_commit(self, count: int, calls: int, chance: int) -> None:
        """Cut the power before or during the write of a commit, or before or after its sync."""
        self._die_in_a_commit(lambda: self.append_and_commit(count), calls)
        self.recover(power_cut=True, chance=chance, repaired=True, calls_to_live=None)

    @precondition(alive)
    @rule(count=st.integers(2, 12), calls=st.integers(0, 8), power_cut=st.booleans(), chance=CHANCE)
    def die_in_the_commit_of_a_batch(self, count: int, calls: int, power_cut: bool, chance: int) -> None:
        """Before, during or after the writes and syncs of its frame and its records."""
        self._die_in_a_commit(lambda: self.append_batch(count, 900, then_commits=True), calls)
        self.recover(power_cut=power_cut, chance=chance, repaired=True, calls_to_live=None)

    def _die_in_a_commit(self, commit: Callable[[], None], calls: int) -> None:
        self._settle()
        if alive(self):
            self.die_in_a_call(calls)
            commit()
        if alive(self):
            self.kill()

    @precondition(alive)
    @rule()
    def stop(self) -> None:
        """Stop in order, on a working disk. Everything is in parts then, unless the journal is broken."""
        self._settle()
        if not alive(self):
            return
        self.disk.faults.clear()
        self.disk.calls_to_live = None
        stages = self._running.stages
        if not stages.journal.broken.is_set():
            self._running.run(stages.flusher.flush())  # a drain leaves the segments of dead processes to the next start
            assert 0 == self._running.run(stages.flusher.drain(STOP_PATIENCE_S)), "events are lost"
            assert self._problem_in(self._data_dir, self._ledger) is None
        self.kill()

    @precondition(lambda model: not alive(model))
    @rule(
        power_cut=st.booleans(),
        chance=CHANCE,
        repaired=st.booleans(),
        calls_to_live=st.sampled_from((*6 * (None,), 0, 3, 7, 11, 15, 30)),
    )
    def recover(self, power_cut: bool, chance: int, repaired: bool, calls_to_live: int | None) -> None:
        """Start another process, maybe after a power cut or on a disk that still fails. It may die before it serves."""
        if power_cut:
            if self._durability == "write":
                self._ledger.acked &= self._safe
                self._may_return |= self._tried  # the file was truncated, but not synced
                self._may_be_split |= {key for key, sent in self._batches.items() if not sent <= self._safe}
            self.disk.cut_power(Random(chance))
        if repaired:
            self.disk.faults.clear()
        self._check()
        self.disk.start(calls_to_live)
        self.process = Process(self._data_dir, self._durability, self._new_id, self._remember)
        try:
            self.process.stages.open()
        except (Killed, OSError, SegmentBroken):  # the process ends, and its supervisor starts another
            self.disk.is_dead = True
            self._bury_if_dead()

    def teardown(self) -> None:
        try:
            if alive(self):
                self._settle()
            self.disk.is_dead = True
            self._bury_if_dead()
            self._check()
        finally:
            self.disk.forget()
            self._patch.undo()
            shutil.rmtree(self._data_dir)
            shutil.rmtree(self._copy, ignore_errors=True)

    def _settle(self) -> None:
        """Let all tasks end. After a failed fsync, check that nothing is acknowledged."""
        self._running.settle()
        if not self.disk.is_dead:
            journal = self._running.stages.journal
            if self.disk.segment_sync_failed:
                assert not journal.can_append(), "acknowledges events although an fsync of a segment has failed"
            else:
                sealed = {segment.path for segment in journal.sealed if not segment.left_over}
                at_risk = {each for path in self._segments() if path not in sealed for each in session_ids(path)}
                self._safe |= self._ledger.acked - at_risk
        self._bury_if_dead()

    def _bury_if_dead(self) -> None:
        if self.disk.is_dead and self.process is not None:
            self.process.end()
            self.process = None
            self.disk.kill()

    def _check(self) -> None:
        """Recover a copy of the folder, and compare it with the ledger."""
        with self.disk.not_watching():
            shutil.rmtree(self._copy, ignore_errors=True)
            shutil.copytree(self._data_dir, self._copy)
            remembered = dict(self._remembered)
            other = Process(self._copy, self._durability, self._new_id, remembered.update)
            other.stages.open()
            assert other.run(other.stages.flusher.flush()), "a segment cannot be published"
            assert other.run(other.stages.journal.append(stored("a", 0, body(session_id="last")))), "accepts no events"
            assert 0 == other.run(other.stages.flusher.drain(STOP_PATIENCE_S))
            other.end()
            ledger = Ledger(self._ledger.sent | {"last"}, self._ledger.acked | {"last"}, self._ledger.refused)
            assert self._problem_in(self._copy, ledger) is None
            acked = {key for key, sent in self._batches.items() if sent <= self._ledger.acked}
            assert acked <= remembered.keys(), "the answer of an acknowledged batch is lost"
            assert all(_answer_of(key) == answer for key, answer in remembered.items())

    def _problem_in(self, data_dir: Path, ledger: Ledger) -> str | None:
        problem, stays_out = verdict(data_dir, ledger), ledger.refused - self._may_return
        if problem is None and stays_out:
            problem = came_back(data_dir, Ledger(refused=stays_out))
        return problem or self._split_in(data_dir)

    def _split_in(self, data_dir: Path) -> str | None:
        """Return which batches are there in part, or None."""
        there = published(data_dir).keys()
        split = [key for key, sent in self._batches.items() if 0 < len(sent & there) < len(sent)]
        return f"in part: {split}" if not self._may_be_split.issuperset(split) else None

    def _segments(self) -> list[Path]:
        return sorted(self._data_dir.glob("journal/0/*.segment"))


def _answer_of(key: bytes) -> bytes:
    return b"the answer of " + key


def session_ids(segment: Path) -> Iterator[str]:
    """The session ids of the events in a segment's file."""
    name = SEGMENT_NAME.fullmatch(segment.name)
    assert name is not None
    with segment.open("rb") as file:
        file.seek(HEADER_BYTES)
        for found in scan(file, name[1]):
            if isinstance(found, Record):
                yield stored_id(found)


def stored_id(record: Record) -> str:
    return str(json.loads(record.body)["session_id"])


@pytest.fixture
def quiet() -> Iterator[None]:
    """Switch off the log, which a failing disk fills."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if possible: on a disk, deleting folders takes a third of the time."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as made:
        yield Path(made)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("durability", ["fsync", "write"])
def test_acknowledged_events_become_one_row_whatever_fails(folder: Path, durability: str, compress: bool) -> None:
    run_state_machine_as_test(
        lambda: JournalModel(folder, durability, compress=compress),  # type: ignore[arg-type]  # accepts a factory, too
        settings=settings(
            max_examples=times(short=60, long=1_000),
            stateful_step_count=times(short=25, long=60),
            derandomize=not LONG,
            suppress_health_check=list(HealthCheck),
        ),
    )
