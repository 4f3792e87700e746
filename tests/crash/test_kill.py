"""SIGKILL at random moments: under load, during flushes, during recovery."""

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.crash.conftest import times
from tests.crash.rounds import Ledger, kill, load, recover, verdict, victim, victim_serving
from tests.system.process import Process, environment

BACKLOG = {"flush_interval_s": 3600, "segment_max_bytes": 65_536}


def recovering(process: Process) -> bool:
    """Whether a kill now hits a recovery."""
    return process.metrics().value("collector_recovering_segments") > 0


def killed_recover(folder: Path, after_s: float) -> bool:
    """`collector recover`, killed after a while; whether it was still at work."""
    command = (*victim(), "recover", "--config", str(folder / "collector.toml"))
    popen = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        popen.wait(after_s)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()
        return True
    return False


@pytest.mark.parametrize("durability", ["fsync", "write"])
def test_storm_of_kills_loses_doubles_and_invents_nothing(tmp_path: Path, durability: str) -> None:
    """Of every four rounds one keeps its flushes waiting, so that the next start has a backlog to be killed in."""
    ledger, kills, in_recovery = Ledger(), 0, 0
    while kills < times(short=6, long=125):
        backlog = {"flush_interval_s": 3600} if kills % 4 == 0 else {}
        with victim_serving(tmp_path, storage={"durability": durability} | backlog) as process:
            if kills % 4 == 1:  # killed at once: what the round before left is being recovered
                in_recovery += recovering(process)
            else:
                with load(process.url, ledger):
                    time.sleep(random.uniform(0.05, 0.9))
                    kill(process)
            kill(process)
            kills += 1
        if kills % 4 == 3:
            in_recovery += (killed := killed_recover(tmp_path, random.uniform(0.4, 0.9)))
            kills += killed
        if kills % 4 != 1:  # the backlog of that round is the next one's
            recover(tmp_path)
            assert verdict(tmp_path / "data", ledger) is None
    recover(tmp_path)
    assert verdict(tmp_path / "data", ledger) is None
    assert len(ledger.acked) > 50 * kills
    print(
        f"\n{durability}: {kills} kills, {in_recovery} of them in a recovery; {len(ledger.acked)} acknowledged events"
    )


def parts_of(data_dir: Path) -> dict[str, int]:
    """Each part and its inode: a part that is written over gets a new one."""
    return {str(path): path.stat().st_ino for path in (data_dir / "events").rglob("*.parquet")}


def rewritten_by_second_recovery(folder: Path, without: str) -> int:
    """Kill a recovery between its last part and the release of its segment; how many parts the next one rewrites."""
    ledger = Ledger()
    with victim_serving(folder, storage=BACKLOG) as process:
        with load(process.url, ledger):
            time.sleep(0.5)
        kill(process)
    journal, aside = folder / "data" / "journal", folder / "aside"
    shutil.copytree(journal, aside)
    recover(folder)
    before = parts_of(folder / "data")
    assert len(before) > 1
    shutil.copytree(aside, journal, dirs_exist_ok=True)  # as a kill, or a power cut, before the release leaves it
    again = (*victim(without), "recover", "--config", str(folder / "collector.toml"))
    subprocess.run(again, cwd=folder, env=environment(), check=True, capture_output=True, timeout=30)
    assert verdict(folder / "data", ledger) is None
    after = parts_of(folder / "data")
    assert before.keys() == after.keys()
    return sum(before[path] != after[path] for path in before)


def test_parts_that_are_published_already_are_kept_not_written_again(tmp_path: Path) -> None:
    assert 0 == rewritten_by_second_recovery(tmp_path, "none")


def test_suite_notices_parts_that_are_written_over(tmp_path: Path) -> None:
    assert 0 < rewritten_by_second_recovery(tmp_path, "publish_if_absent")
