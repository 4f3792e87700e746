"""A batch with an Idempotency-Key, and a kill at each step of its way.

A client that gets no answer sends the batch again with the same key. Whatever was killed, its events are there once.
"""

import random
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.crash.batches import SentBatch, large_batch
from tests.crash.conftest import LONG, need, times
from tests.crash.rounds import (
    SITES,
    Ledger,
    kill,
    send_batch,
    send_unanswered,
    verdict,
    victim,
    victim_serving,
)
from tests.crash.test_syscalls import recover_killed
from tests.crash.tracing import ended, failing, may_trace, options, traced
from tests.system.process import READY_S, environment, wait_until
from tests.system.test_workers import workers

NEVER = {"flush_interval_s": 3600, "segment_max_bytes": 16 << 20}
ANSWERS = "answers.sqlite-wal"


@pytest.fixture(autouse=True)
def _strace() -> None:
    need(may_trace(), "strace, and the right to attach it")


@dataclass(frozen=True, slots=True)
class Point:
    """A kill before the nth call on the segment or on the file of answers, counted from `sending` or `stopping`."""

    name: str
    file: str
    calls: str
    n: int
    phase: str = "sending"


# A kill loses nothing that was written. So the state before a sync is the state after it.
CLAIMED = Point("after the claim", "segment", "write", 1)
FRAMED = Point("after the frame", "segment", "write", 2)
HALF_WRITTEN = Point("in the middle of its records", "segment", "write", 3)
COMMITTED = Point("between the commit and the answer's record", "segment", "fdatasync", 2)
SETTLED = Point("between the answer's record and the answer", ANSWERS, "fdatasync", 2)
PUBLISHED = Point("between the parts and the release of the segment", "segment", "unlink,unlinkat", 1, "stopping")
POINTS = (CLAIMED, FRAMED, HALF_WRITTEN, COMMITTED, SETTLED, PUBLISHED)

# Every call, for the long form.
SWEPT = (
    ("segment", "write", "sending"),
    ("segment", "fdatasync", "sending"),
    (ANSWERS, "pwrite64", "sending"),
    (ANSWERS, "fdatasync", "sending"),
    (ANSWERS, "pwrite64", "stopping"),
    (ANSWERS, "fdatasync", "stopping"),
    ("segment", "unlink,unlinkat", "stopping"),
)

SWEPT_IN_RECOVERY = ((ANSWERS, "pwrite64"), (ANSWERS, "fdatasync"), ("segment", "unlink,unlinkat"))


def new_batch(ledger: Ledger, events: int = 2) -> SentBatch:
    """Make a batch with a key, and enter it."""
    key = f"key-{len(ledger.batches)}"
    made = large_batch(SITES[0], [ledger.next_id() for _ in range(events)], key)
    ledger.batches.append(made)
    return made


def killed(folder: Path, ledger: Ledger, point: Point, without: str = "none") -> bool:
    """Send a batch of some pieces to a collector, and stop it. Returns whether it was killed at the point."""
    folder.mkdir(exist_ok=True)
    log = folder / "strace"
    with victim_serving(folder, without, storage=NEVER) as process:
        send_batch(process.url, ledger, new_batch(ledger))  # makes the file of answers
        assert not ledger.unanswered
        (segment,) = (folder / "data" / "journal" / "0").iterdir()
        path = segment if point.file == "segment" else folder / "data" / point.file
        fault = options(point.calls, f"signal=KILL:when={point.n}", path=path)
        batch = new_batch(ledger, events=700)
        if point.phase == "stopping":
            send_batch(process.url, ledger, batch)
        with failing(process.popen.pid, log, *fault):
            if point.phase == "sending":
                send_batch(process.url, ledger, batch)
            is_killed = process.stop() != 0
            wait_until(lambda: ended(log, process.popen.pid), "strace has ended")
    ledger.unanswered[:] = [batch]  # also if it was answered: then it gets the same answer again
    return is_killed


def after_recover(folder: Path, ledger: Ledger, without: str) -> None:
    """Recover, serve, and send the batch again."""
    command = (*victim(without), "recover", "--config", str(folder / "collector.toml"))
    subprocess.run(command, cwd=folder, env=environment(), check=True, capture_output=True, timeout=30)
    at_once(folder, ledger, without)


def at_once(folder: Path, ledger: Ledger, without: str) -> None:
    """Serve, and send the batch again while what is left is recovered."""
    with victim_serving(folder, without) as process:
        send_unanswered(process.url, ledger, within_s=READY_S if without == "none" else 3)
        wait_until(lambda: process.metrics().value("collector_recovering_segments") == 0, "every segment is recovered")
        assert 0 == process.stop()


def too_early(folder: Path, ledger: Ledger, without: str) -> None:
    """Send the batch again to a collector that cannot publish what is left, and then to one that can."""
    (batch,) = ledger.unanswered
    prefix = traced(folder / "stuck", *options("link,linkat", "error=EIO"))
    with victim_serving(folder, without, prefix) as process:
        send_batch(process.url, ledger, ledger.unanswered.pop())
        kill(process)
    ledger.unanswered[:] = [batch]
    at_once(folder, ledger, without)


Again = Callable[[Path, Ledger, str], None]


def problem(folder: Path, point: Point, again: Again, without: str = "none") -> str | None:
    """Kill a collector at the point, send the batch again, and return what is wrong."""
    ledger = Ledger()
    assert killed(folder, ledger, point, without), f"it was killed {point.name}"
    return problem_after(folder, ledger, again, without)


def problem_after(folder: Path, ledger: Ledger, again: Again, without: str = "none") -> str | None:
    try:
        again(folder, ledger, without)
    except TimeoutError:
        return "the batch is never answered"
    return verdict(folder / "data", ledger)


@pytest.mark.parametrize("again", [after_recover, at_once, too_early])
def test_batch_that_is_sent_again_after_a_kill_is_stored_once(tmp_path: Path, again: Again) -> None:
    """The short form takes each way of sending it again after two of the kills."""
    place = (after_recover, at_once, too_early).index(again)
    points = POINTS if LONG else (POINTS[place], POINTS[place + 3])
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda point: problem(tmp_path / point.name, point, again), points)
        assert {point.name: None for point in points} == dict(zip((each.name for each in points), found, strict=True))


@pytest.mark.long
@pytest.mark.parametrize(("file", "calls", "phase"), SWEPT)
def test_kill_at_each_call_around_a_batch(tmp_path: Path, file: str, calls: str, phase: str) -> None:
    """A kill before each call, until there is no such call any more."""
    for n in count(1):
        folder, ledger = tmp_path / str(n), Ledger()
        if not killed(folder, ledger, Point("", file, calls, n, phase)):
            break
        assert problem_after(folder, ledger, random.choice((after_recover, at_once, too_early))) is None, f"call {n}"
    assert n > 1, "nothing was killed"
    print(f"\n{phase}: killed at {n - 1} calls of {calls} on {file}")


@pytest.mark.parametrize(("file", "calls"), SWEPT_IN_RECOVERY[: times(1, 3)])
def test_kill_of_the_recovery_too(tmp_path: Path, file: str, calls: str) -> None:
    """The answer is remembered before the segment is deleted."""
    for n in count(1) if LONG else [1]:
        folder, ledger = tmp_path / str(n), Ledger()
        assert killed(folder, ledger, COMMITTED)
        (segment,) = (folder / "data" / "journal" / "0").iterdir()
        path = segment if file == "segment" else folder / "data" / file
        if 0 == recover_killed(folder, *options(calls, f"signal=KILL:when={n}", path=path)):
            assert n > 1, "nothing was killed"
            break
        assert problem_after(folder, ledger, after_recover) is None, f"call {n}"


@pytest.mark.parametrize("point", [COMMITTED, CLAIMED, SETTLED][: times(1, 3)], ids=lambda point: point.name)
def test_batch_that_is_sent_again_to_either_worker_is_stored_once(tmp_path: Path, point: Point) -> None:
    """One of two workers is killed. The next requests meet the other one, and the killed one's successor."""
    ledger, log = Ledger(), tmp_path / "strace"
    with victim_serving(tmp_path, server={"workers": 2}, storage=NEVER) as process:
        while not (tmp_path / "data" / ANSWERS).exists():
            send_batch(process.url, ledger, new_batch(ledger))
        victim_pid = workers(process)[0]
        (segment,) = (tmp_path / "data" / "journal" / "0").iterdir()
        path = segment if point.file == "segment" else tmp_path / "data" / point.file
        with failing(victim_pid, log, *options(point.calls, f"signal=KILL:when={point.n}", path=path)):
            while not ledger.unanswered:
                send_batch(process.url, ledger, new_batch(ledger))
            wait_until(lambda: ended(log, victim_pid), "strace has ended")
        send_unanswered(process.url, ledger)
        assert 0 == process.stop()
    assert verdict(tmp_path / "data", ledger) is None


def test_batch_whose_commit_may_have_failed_is_not_stored_twice(tmp_path: Path) -> None:
    """Its sync failed, and it cannot be cut off. So the segment has it although it was refused."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=NEVER) as process:
        send_batch(process.url, ledger, new_batch(ledger))
        (segment,) = (tmp_path / "data" / "journal" / "0").iterdir()
        faults = ("fdatasync:error=EIO:when=2+", "ftruncate:error=EIO")  # the first sync is that of the frame
        fault = options("fdatasync,ftruncate", *faults, path=segment)
        with failing(process.popen.pid, tmp_path / "strace", *fault):
            send_batch(process.url, ledger, new_batch(ledger))
            assert 1 == process.exit_code()
    assert 1 == len(ledger.unanswered)
    assert problem_after(tmp_path, ledger, too_early) is None


@pytest.mark.parametrize(
    ("without", "point", "again", "found"),
    [
        ("remember", COMMITTED, after_recover, "are there twice"),
        ("claim", COMMITTED, too_early, "are there twice"),
        ("frame", HALF_WRITTEN, after_recover, "are there twice"),
        ("resolve", CLAIMED, at_once, "never answered"),
    ][: times(2, 4)],
)
def test_suite_detects_a_missing_safeguard(
    tmp_path: Path, without: str, point: Point, again: Again, found: str
) -> None:
    wrong = problem(tmp_path / "data", point, again, without)
    print(f"\nwithout the {without}: {wrong}")
    assert found in (wrong or "")
