"""System calls that fail, do only part of their work, or take long.

The tests check what is refused, what is kept, and whether the collector continues.

strace injects the failures, for one file or folder or for all. Where a resource limit can make the kernel itself fail
the call, that is used instead.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, RLIMIT_NOFILE, prlimit

import pytest

from tests.crash.conftest import need, times
from tests.crash.rounds import Ledger, came_back, kill, load, published, recover, verdict, victim_serving
from tests.crash.tracing import calls, failing, may_trace, options, traced
from tests.support import body, event
from tests.system import wire
from tests.system.process import Answer, Process, run, serving, wait_until

SEGMENT = 65_536
BY_SIZE = {"flush_interval_s": 3600, "segment_max_bytes": SEGMENT}
NEVER = {"flush_interval_s": 3600, "segment_max_bytes": 256 * SEGMENT}
BULK = 1_000 * "x"  # some forty such events fill a segment
NEARLY = 25


@pytest.fixture(autouse=True)
def _strace() -> None:
    need(may_trace(), "strace, and the right to attach it")


def post(process: Process, ledger: Ledger) -> Answer:
    """Send an event to site `a` and enter it in the ledger."""
    session_id = ledger.next_id()
    answer = process.post(event(session_id=session_id, page_referrer=BULK), site="a")
    ledger.answered(session_id, answer.status)
    return answer


def send(process: Process, ledger: Ledger, count: int, connections: int = 8) -> list[wire.Reply]:
    """Send many events at once and enter them in the ledger."""
    ids = [ledger.next_id() for _ in range(count)]
    requests = [wire.request("a", body(session_id=session_id, page_referrer=BULK)) for session_id in ids]
    replies = asyncio.run(wire.send_all(process.url, requests, connections))
    for session_id, reply in zip(ids, replies, strict=True):
        ledger.answered(session_id, reply.status)
    return replies


def segments(process: Process) -> list[Path]:
    return sorted((process.data_dir / "journal" / "0").glob("*.segment"))


def ready(process: Process) -> bool:
    return process.ask("/readyz")[0] == 200


def problem_in(data_dir: Path, ledger: Ledger) -> str | None:
    """The verdict; also no refused event may be stored."""
    return verdict(data_dir, ledger) or came_back(data_dir, ledger)


def stopped(process: Process, ledger: Ledger) -> None:
    """Stop the process in order and check the verdict."""
    assert process.stop() == 0, process.log()
    assert problem_in(process.data_dir, ledger) is None


def refused(answer: Answer) -> bool:
    """Return whether the response is a 503 with Retry-After."""
    return (503, "unavailable", "5") == (answer.status, answer.headers["Collect-Reason"], answer.headers["Retry-After"])


def broken_sync(folder: Path, ledger: Ledger, without: str = "none") -> str | None:
    """Make every sync of a commit fail until the process exits; return what is wrong after a recovery."""
    with victim_serving(folder, without, storage=NEVER) as process:
        assert [201] * 3 == [post(process, ledger).status for _ in range(3)]
        before = ledger.acked.copy()
        fault = options("fdatasync", "error=EIO")
        with failing(process.popen.pid, folder / "strace", *fault):
            # Alone in its commit, this event is written before its sync. Of a batch, only the frame would be.
            assert refused(post(process, ledger))
            with load(process.url, ledger):
                assert process.exit_code() == 1, "it exits on its own"
        assert before == ledger.acked, "nothing more was acknowledged"
        assert {201, 503} == ledger.statuses.keys()
        assert "no event can be acknowledged any more" in process.log()
        assert "Traceback" not in process.log()
    recover(folder)
    return problem_in(folder / "data", ledger)


def short_writes(folder: Path, ledger: Ledger, without: str = "none", rounds: int = 5) -> str | None:
    """Cut commits short by a limit on file size, several times; return what is wrong after a kill and a recovery."""
    with victim_serving(folder, without, storage=NEVER) as process, load(process.url, ledger):
        for _ in range(rounds):
            acked, refusals = len(ledger.acked), len(ledger.refused)
            wait_until(lambda acked=acked: len(ledger.acked) > acked + 20, "events are stored")  # type: ignore[misc]
            # Leaves space for about one and a half records; a commit has several.
            prlimit(process.popen.pid, RLIMIT_FSIZE, (segments(process)[0].stat().st_size + 1_500, RLIM_INFINITY))
            wait_until(lambda: not ready(process), "events are refused")
            assert "the journal cannot be written" in process.ask("/readyz")[1]
            wait_until(lambda refusals=refusals: len(ledger.refused) > refusals, "some were refused")  # type: ignore[misc]
            prlimit(process.popen.pid, RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))
            wait_until(lambda: ready(process), "events are accepted again")
        process.popen.kill()  # an orderly stop would publish from memory, and not read the file
        process.exit_code()
    assert {201, 503} == ledger.statuses.keys()
    assert run("recover", "--config", folder / "collector.toml", folder=folder).returncode == 0
    return problem_in(folder / "data", ledger)


TORTURES: list[Callable[[Path, Ledger, str], str | None]] = [broken_sync, short_writes]


def test_failed_sync_of_a_commit_ends_the_process(tmp_path: Path) -> None:
    """After one failed sync nothing is acknowledged in that file, and no refused event is stored."""
    assert broken_sync(tmp_path, Ledger()) is None


def test_failed_sync_at_a_stop_is_logged_and_leaves_the_events_to_the_next_start(tmp_path: Path) -> None:
    """The segment cannot be sealed, so it is not published, and the log does not claim that it was."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=NEVER) as process:
        assert [201] * 3 == [post(process, ledger).status for _ in range(3)]
        with failing(process.popen.pid, tmp_path / "strace", *options("fdatasync", "error=EIO")):
            assert process.stop() == 1
        assert process.log().splitlines()[-1].endswith("stopped; 3 events left in the journal for the next start")
        assert [] == process.parts()
    recover(tmp_path)
    assert problem_in(tmp_path / "data", ledger) is None


def test_short_write_is_cut_back(tmp_path: Path) -> None:
    """If the kernel writes only part of a commit, none of it is stored, and later commits are stored completely."""
    assert short_writes(tmp_path, Ledger(), rounds=times(1, 20)) is None


@pytest.mark.parametrize("torture", TORTURES[: times(1, 2)])
def test_without_the_cut_refused_events_come_back(
    tmp_path: Path, torture: Callable[[Path, Ledger, str], str | None]
) -> None:
    """The same tests detect that this safeguard is missing."""
    found = torture(tmp_path, Ledger(), "cut")
    print(f"\nwithout the cut: {found}")
    assert found is not None
    assert "came back" in found


@pytest.mark.parametrize("fault", ["error=ENOSPC", "retval=1", "retval=0", "error=EIO", "error=EDQUOT"][: times(1, 5)])
def test_failed_write_refuses_and_service_resumes(tmp_path: Path, fault: str) -> None:
    """`retval=1` claims that one byte was written, although none was."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=NEVER) as process:
        assert post(process, ledger).status == 201
        (segment,) = segments(process)
        size_bytes = segment.stat().st_size
        with failing(process.popen.pid, tmp_path / "strace", *options("write", fault, path=segment)):
            assert all(refused(post(process, ledger)) for _ in range(5))
            status, text = process.ask("/readyz")
            assert (503, True) == (status, text.startswith("not ready: the journal cannot be written: "))
            assert (200, "alive\n") == process.ask("/healthz")
            assert size_bytes == segment.stat().st_size
        wait_until(lambda: ready(process), "events are accepted again")
        assert [201] * 3 == [post(process, ledger).status for _ in range(3)]
        assert 5 == process.metrics().value("collector_dropped_events_total", site="a", reason="unavailable")
        stopped(process, ledger)


FAILED_TRY = ["openat", "openat", "fsync", "unlink"]  # write, open for sync, fail to sync, delete


def test_part_is_rewritten_after_its_sync_fails(tmp_path: Path) -> None:
    """It is neither published nor synced again. Its segment stays until a new part is complete."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=BY_SIZE) as process:
        (segment,) = segments(process)
        send(process, ledger, NEARLY)
        staged = process.data_dir / "staging" / "0" / f"{segment.stem.partition('-')[2]}.parquet"
        fault = options("openat,link,linkat,unlink,fsync", "fsync:error=EIO", path=staged)
        with failing(process.popen.pid, tmp_path / "strace", *fault):
            wait_until(lambda: post(process, ledger).status == 201 and len(segments(process)) == 2, "one is sealed")
            wait_until(lambda: process.log().count("flush failed") >= 2, "it is tried again")
            assert ([], True) == (process.parts(), segment.exists())
        made = [name for _, name, _ in calls(tmp_path / "strace", process.data_dir)]
        assert 2 * FAILED_TRY == made[:8]
        assert "link" not in made
        wait_until(lambda: not segment.exists(), "it is published")
        assert 1 == len(process.parts())
        stopped(process, ledger)


@pytest.mark.long
@pytest.mark.parametrize(("folder", "parts"), [("events", 0), ("events/site=a", 0), ("events/site=a/date={today}", 1)])
def test_segment_is_kept_while_a_folder_of_its_parts_cannot_be_synced(tmp_path: Path, folder: str, parts: int) -> None:
    """A part that is already published is kept and not written again."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=BY_SIZE) as process:
        (segment,) = segments(process)
        send(process, ledger, NEARLY)
        path = process.data_dir / folder.format(today=datetime.now(UTC).date())
        with failing(process.popen.pid, tmp_path / "strace", *options("fsync", "error=EIO", path=path)):
            wait_until(lambda: post(process, ledger).status == 201 and len(segments(process)) == 2, "one is sealed")
            wait_until(lambda: process.log().count("flush failed") >= 2, "it is tried again")
            assert (parts, True) == (len(process.parts()), segment.exists())
        wait_until(lambda: not segment.exists(), "it is published")
        assert 1 == len(process.parts())
        stopped(process, ledger)


@pytest.mark.long
def test_failed_sync_of_a_segments_name_ends_the_process(tmp_path: Path) -> None:
    """A power cut could delete the new segment, so no event is acknowledged in it."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=BY_SIZE) as process:
        fault = options("fsync", "error=EIO", path=process.data_dir / "journal" / "0")
        with failing(process.popen.pid, tmp_path / "strace", *fault), load(process.url, ledger):
            assert process.exit_code() == 1, "it exits on its own"
        assert ledger.acked
        assert {201, 503} >= ledger.statuses.keys()
        assert "no event can be acknowledged any more" in process.log()
    recover(tmp_path)
    assert problem_in(tmp_path / "data", ledger) is None


def test_bad_sector_in_a_left_over_segment_costs_only_the_records_in_it(tmp_path: Path) -> None:
    """The first block is unreadable: the header and some three events. Three tries fail; the fourth skips it."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=NEVER) as process:
        send(process, ledger, NEARLY, connections=1)
        (segment,) = segments(process)
        kill(process)
    fault = options("preadv,preadv2", "error=EIO:when=1..5", path=segment)
    with victim_serving(tmp_path, prefix=traced(tmp_path / "strace", *fault), storage=NEVER) as process:
        wait_until(lambda: not segment.exists(), "it is published")
        assert 3 == process.log().count("Input/output error")
        assert {"damaged": 2, "segment": 1} == process.metrics().by("kind", "collector_quarantined_total")
        assert process.stop() == 0
    found = published(process.data_dir)
    assert found.keys() < ledger.acked
    assert NEARLY - 5 < len(found) < NEARLY


def test_out_of_descriptors_keeps_the_open_segment(tmp_path: Path) -> None:
    """It grows to twice its normal size. Then events are refused until a new segment can be created."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=BY_SIZE) as process:
        (segment,) = segments(process)
        send(process, ledger, NEARLY)
        fault = options("openat", "error=EMFILE", path=process.data_dir / "journal" / "0")
        with failing(process.popen.pid, tmp_path / "strace", *fault):
            wait_until(lambda: send(process, ledger, 8)[-1].status == 503, "twice the size is reached")
            assert [segment] == segments(process)
            assert 2 * SEGMENT <= process.metrics().value("collector_buffered_bytes") < 2.5 * SEGMENT
            assert (503, "not ready: no new segment can be made\n") == process.ask("/readyz")
            assert refused(post(process, ledger))
            assert "no new segment can be made; the open one is kept" in process.log()
        wait_until(lambda: ready(process), "events are accepted again")
        assert post(process, ledger).status == 201
        stopped(process, ledger)


@contextmanager
def no_descriptors(process: Process) -> Iterator[None]:
    """Keep the process from opening any file, folder or connection."""
    limit = prlimit(process.popen.pid, RLIMIT_NOFILE)
    prlimit(process.popen.pid, RLIMIT_NOFILE, (0, limit[1]))
    try:
        yield
    finally:
        prlimit(process.popen.pid, RLIMIT_NOFILE, limit)


@pytest.mark.long
def test_no_descriptor_left_at_all_costs_no_event(tmp_path: Path) -> None:
    """No segment, part or connection can be opened. Open connections keep working."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=BY_SIZE) as process:
        with load(process.url, ledger, connections=4):
            for _ in range(times(1, 5)):
                acked, refusals = len(ledger.acked), len(ledger.refused)
                wait_until(lambda acked=acked: len(ledger.acked) > acked, "events are stored")  # type: ignore[misc]
                with no_descriptors(process):
                    wait_until(lambda refusals=refusals: len(ledger.refused) > refusals, "some are refused")  # type: ignore[misc]
                wait_until(lambda: ready(process), "events are accepted again")
            acked = len(ledger.acked)
            wait_until(lambda: len(ledger.acked) > acked, "events are stored")
        assert {201, 503} == ledger.statuses.keys()
        stopped(process, ledger)


def test_slow_disk_delays_only_acknowledgements(tmp_path: Path) -> None:
    """While a commit hangs, the admin listener responds. The event is acknowledged once the commit is done."""
    ledger = Ledger()
    with victim_serving(tmp_path, storage=NEVER) as process, ThreadPoolExecutor(1) as pool:
        fault = options("fdatasync", "delay_enter=500000")
        with failing(process.popen.pid, tmp_path / "strace", *fault):
            for _ in range(times(1, 10)):
                waiting, alive = pool.submit(post, process, ledger), 0
                while not waiting.done():
                    assert (200, "alive\n") == process.ask("/healthz")
                    alive += not waiting.done()
                assert waiting.result().status == 201
                assert alive
        stopped(process, ledger)


SMALL_WAITING_ROOM = """
import sys
from collector.cli.main import main
from collector.journal import journal
journal.WAITING_MAX_BYTES = 20_000
sys.exit(main(sys.argv[1:]))
"""


def test_events_over_the_limit_for_a_slow_disk_are_refused(tmp_path: Path) -> None:
    """The bytes that wait for a commit are limited, here to fewer than ten events."""
    ledger = Ledger()
    with serving(tmp_path, {"a": {}}, command=(sys.executable, "-c", SMALL_WAITING_ROOM), storage=NEVER) as process:
        with failing(process.popen.pid, tmp_path / "strace", *options("fdatasync", "delay_enter=500000")):
            replies = send(process, ledger, 60, connections=60)
        assert {201, 503} == ledger.statuses.keys()
        assert {("unavailable", "5")} == {
            (reply.reason, reply.headers["retry-after"]) for reply in replies if reply.status == 503
        }
        assert ready(process)
        assert post(process, ledger).status == 201
        process.send_signal(signal.SIGKILL)
        process.exit_code()
    recover(tmp_path)
    assert problem_in(tmp_path / "data", ledger) is None
