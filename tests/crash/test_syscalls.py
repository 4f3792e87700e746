"""A kill at every system call that changes the disk or waits for it.

The state that a kill leaves on disk changes only with such a call, so a kill before each one covers every state. For
`recover`, which has one thread, that is exhaustive. For a serving collector it depends on how its threads interleave.
"""

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, prlimit
from typing import TypeVar

import pytest

from tests.crash.conftest import LONG, need, times
from tests.crash.rounds import SITES, STORAGE, Ledger, load, recover, verdict, victim, victim_serving
from tests.crash.tracing import calls, ended, failing, may_trace, nth_call, options, traced
from tests.system.process import Process, configure, environment, run, wait_until
from tests.system.test_storage import failing_disk

ACKED_BEFORE_STOP = 60  # events acknowledged before the collector is stopped
CONNECTIONS = 4
KILLED = -signal.SIGKILL

P = TypeVar("P")

FSYNC, FDATASYNC, LINK, RENAME, UNLINK, RMDIR, WRITE, TRUNCATE, MKDIR = KINDS = (
    "fsync",
    "fdatasync",
    "link,linkat",
    "rename,renameat,renameat2",
    "unlink,unlinkat",
    "rmdir",
    "write,pwrite64",
    "truncate,ftruncate",
    "mkdir,mkdirat",
)


@pytest.fixture(autouse=True)
def _strace() -> None:
    need(may_trace(), "strace, and the right to attach it")


@dataclass(frozen=True, slots=True)
class Backlog:
    """The data_dir of a killed collector, with a torn tail, and the ledger of what it acknowledged."""

    data_dir: Path
    ledger: Ledger

    def copy(self, folder: Path) -> Ledger:
        """Make a folder with a copy of this data_dir and a configuration; return a copy of the ledger."""
        folder.mkdir()
        shutil.copytree(self.data_dir, folder / "data")
        configure(folder, {site: {} for site in SITES}, storage=STORAGE | {"data_dir": folder / "data"})
        return deepcopy(self.ledger)


@pytest.fixture(scope="module")
def backlog(tmp_path_factory: pytest.TempPathFactory) -> Backlog:
    """Three sealed segments, and an open one with a torn tail, of a collector that could not publish."""
    folder, ledger = tmp_path_factory.mktemp("backlog"), Ledger()
    journal = folder / "data" / "journal" / "0"
    with victim_serving(folder) as process, failing_disk(process.data_dir), load(process.url, ledger, CONNECTIONS):
        wait_until(lambda: len(list(journal.iterdir())) >= 4, "three segments are sealed, and one is open")
        process.popen.kill()
        process.exit_code()
    *_, last = sorted(journal.iterdir())
    with last.open("ab") as file:
        file.write(b"\xffREC torn")
    return Backlog(folder / "data", ledger)


class Kills:
    """The system calls at which a process was killed."""

    def __init__(self) -> None:
        self.at: Counter[tuple[str, str]] = Counter()

    def add(self, log: Path, root: Path, n: int) -> None:
        self.at[nth_call(log, root, n)] += 1

    def report(self, what: str) -> None:
        """Print the kills by call and place. Fails if there were none."""
        assert self.at, "nothing was killed"
        print(f"\n{what}: killed at {self.at.total()} calls")
        for (name, where), number in sorted(self.at.items()):
            print(f"  {number:4} {name:9} {where}")


def recover_killed(folder: Path, *strace: str) -> int:
    """Run `recover` under strace. Returns its exit code, 0 or KILLED."""
    log = folder / "strace"
    command = [*traced(log, *strace), *victim(), "recover", "--config", str(folder / "collector.toml")]
    with (folder / "output").open("wb") as output:
        popen = subprocess.Popen(command, cwd=folder, env=environment(), stdout=output, stderr=output)
        code = popen.wait(60)
    wait_until(lambda: ended(log, popen.pid), "strace has ended")
    assert code in (0, KILLED), (folder / "output").read_text()
    return code


def serve_killed(folder: Path, ledger: Ledger, *strace: str) -> int:
    """Serve some events under strace, while recovering any backlog, then stop. Returns the exit code, 0 or KILLED."""
    log, enough = folder / "strace", len(ledger.acked) + ACKED_BEFORE_STOP
    with perhaps_serving(folder, traced(log, *strace)) as process:
        if process is None:
            wait_until(lambda: "+++ killed by SIGKILL" in log.read_text(errors="replace"), "it was killed")
            return KILLED

        def gone() -> bool:
            return process.popen.poll() is not None

        with load(process.url, ledger, CONNECTIONS):
            wait_until(lambda: gone() or len(ledger.acked) >= enough, "enough is acknowledged, or the victim is gone")
            # Flush once under load, and once at the end.
            wait_until(lambda: gone() or "published" in process.log(), "a flush is done, or the victim is gone")
        process.send_signal(signal.SIGTERM)
        code = process.exit_code()
        wait_until(lambda: ended(log, process.popen.pid), "strace has ended")
        assert code in (0, KILLED), process.log()
        return code


@contextmanager
def perhaps_serving(folder: Path, prefix: tuple[str, ...]) -> Iterator[Process | None]:
    """Yield a collector, or None if it was killed before it listened."""
    with ExitStack() as stack:
        try:
            process = stack.enter_context(victim_serving(folder, prefix=prefix))
        except AssertionError as exc:
            if "the collector did not start" not in str(exc):
                raise
            yield None
        else:
            yield process


def check(folder: Path, ledger: Ledger) -> None:
    """Recover, check the verdict, and delete the folder."""
    if (folder / "data").is_dir() or ledger.acked:  # neither is true if it was killed before it made its data_dir
        recover(folder)
        assert verdict(folder / "data", ledger) is None
    shutil.rmtree(folder)


def spread(total: int, most: int) -> list[int]:
    """Return the numbers of the calls to kill at: all of them, or an even sample of `most`."""
    if total <= most:
        return list(range(1, total + 1))
    return sorted({1 + (2 * index + 1) * total // (2 * most) for index in range(most)})


def sweep(kill: Callable[[P], bool], points: Iterable[P]) -> bool:
    """Kill at each point, two at a time, until one is not reached. Returns whether that happened."""
    with ThreadPoolExecutor(2) as pool:
        waiting = iter(points)
        while pair := list(islice(waiting, 2)):
            if not all(pool.map(kill, pair)):
                return True
    return False


def test_kill_at_each_call_of_a_recovery(tmp_path: Path, backlog: Backlog) -> None:
    """Calls that occur often are sampled evenly: each write of a part leaves it torn in staging just the same."""
    root, kills = tmp_path / "whole", Kills()
    ledger = backlog.copy(root)
    assert 0 == recover_killed(root, *options(",".join(KINDS)))
    totals = Counter(name for _, name, _ in calls(root / "strace", root / "data"))
    assert verdict(root / "data", ledger) is None
    assert {"fsync", "unlink", "write", "mkdir"} < totals.keys()

    def kill(point: tuple[str, int]) -> bool:
        call, n = point
        folder = tmp_path / f"{call}-{n}"
        ledger = backlog.copy(folder)
        killed = KILLED == recover_killed(folder, *options(call, f"signal=KILL:when={n}"))
        if killed:
            kills.add(folder / "strace", folder / "data", n)
        check(folder, ledger)
        return killed

    assert not sweep(kill, [(call, n) for call in totals for n in spread(totals[call], times(1, 60))])
    for call in totals if LONG else ():
        assert sweep(kill, [(call, totals[call] + 1)]), f"there are more calls of {call} than were counted"
    kills.report(f"recovering, with {dict(totals)}")


@pytest.mark.parametrize("recovers", [False, True], ids=["serving", "serving and recovering"])
def test_kill_at_each_call_of_a_serving_collector(tmp_path: Path, backlog: Backlog, recovers: bool) -> None:
    """From start-up to the end by SIGTERM. The first thread to reach its nth call ends the process.

    The journal's thread makes fewer syncs than the flush's, so the journal's folder gets a separate sweep.
    """
    kills = Kills()

    def kill(call: str, path: str | None, n: int) -> bool:
        folder, ledger = tmp_path / f"{call}-{n}-{path is None}", Ledger()
        if recovers:
            ledger = backlog.copy(folder)
        else:
            folder.mkdir()
        below = None if path is None else folder / "data" / path
        killed = KILLED == serve_killed(folder, ledger, *options(call, f"signal=KILL:when={n}", path=below))
        if killed:
            kills.add(folder / "strace", folder / "data", n)
        check(folder, ledger)
        return killed

    if not LONG:
        sweep(partial(kill, FSYNC, None), [14]) if recovers else sweep(partial(kill, FDATASYNC, None), [12])
    else:
        for call, path in ((FSYNC, None), (FSYNC, "journal/0"), (LINK, None), (UNLINK, None), (MKDIR, None)):
            assert sweep(partial(kill, call, path), range(1, 200)), f"{call} has more calls than this sweeps"
        if not recovers:
            assert sweep(partial(kill, FDATASYNC, None), range(1, 200))
            sweep(partial(kill, WRITE, None), range(1, 40))
    kills.report(f"serving, recovery: {'yes' if recovers else 'no'}")


def days_of(folder: Path) -> dict[str, int]:
    """Count the parts of each day's folder."""
    return Counter(str(path.parent) for path in (folder / "data" / "events").rglob("*.parquet"))


@pytest.mark.long
def test_kill_at_each_call_of_an_expiry(tmp_path: Path) -> None:
    """Every day has all its parts or none, and the next expiry completes the killed one."""
    kills = Kills()

    def expiry(folder: Path, *strace: str) -> int:
        folder.mkdir()
        config_file = configure(folder)
        for site in SITES:
            for day in ("2020-01-01", "2020-01-02", "2999-01-01"):
                parts = folder / "data" / "events" / f"site={site}" / f"date={day}"
                parts.mkdir(parents=True)
                for number in range(2):
                    (parts / f"{number}.parquet").touch()
        words = ("expire", "--older-than", "400d", "--config", str(config_file))
        command = [*traced(folder / "strace", *strace), *victim(), *words]
        popen = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
        code = popen.wait(60)
        wait_until(lambda: ended(folder / "strace", popen.pid), "strace has ended")
        assert {2} == set(days_of(folder).values()), "a day has only some of its parts"
        return code

    whole = tmp_path / "whole"
    assert 0 == expiry(whole, *options(",".join(KINDS)))
    totals = Counter(name for _, name, _ in calls(whole / "strace", whole / "data"))
    assert {"rename", "fsync", "unlinkat"} <= totals.keys()
    for call in totals:
        for n in range(1, totals[call] + 1):
            folder = tmp_path / f"{call}-{n}"
            assert KILLED == expiry(folder, *options(call, f"signal=KILL:when={n}"))
            kills.add(folder / "strace", folder / "data", n)
            done = run("expire", "--older-than", "400d", "--config", folder / "collector.toml", folder=folder)
            assert (0, "") == (done.returncode, done.stderr)
            assert {"date=2999-01-01"} == {Path(day).name for day in days_of(folder)}
            assert [] == list((folder / "data" / "staging").rglob("*.parquet"))
    kills.report("expiring")


def test_kill_while_a_short_write_is_cut_back(tmp_path: Path) -> None:
    """A limit on file size cuts a commit short. The kill falls before the nth truncate that removes the remains."""
    kills = Kills()

    def kill(n: int) -> bool:
        folder, ledger = tmp_path / str(n), Ledger()
        folder.mkdir()
        log = folder / "strace"
        storage = {"flush_interval_s": 3600, "segment_max_bytes": 16 << 20}
        with victim_serving(folder, storage=storage) as process, load(process.url, ledger, CONNECTIONS):
            wait_until(lambda: len(ledger.acked) >= ACKED_BEFORE_STOP, "it serves")
            (segment,) = (folder / "data" / "journal" / "0").iterdir()
            with failing(process.popen.pid, log, *options(TRUNCATE, f"signal=KILL:when={n}", path=segment)):
                prlimit(process.popen.pid, RLIMIT_FSIZE, (segment.stat().st_size + 1_500, RLIM_INFINITY))
                assert KILLED == process.exit_code()
                wait_until(lambda: ended(log, process.popen.pid), "strace has ended")
        kills.add(log, folder / "data", n)
        check(folder, ledger)
        return True

    sweep(kill, range(1, times(1, 4) + 1))
    kills.report("serving with short writes")
