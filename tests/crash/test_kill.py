"""SIGKILL at random moments: under load, during flushes and during recovery."""

import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.crash.conftest import times
from tests.crash.rounds import (
    Ledger,
    acknowledged,
    kill,
    load,
    recover,
    send_unanswered,
    verdict,
    victim,
    victim_serving,
)
from tests.system.process import Process, environment

BACKLOG = {"flush_interval_s": 3600, "segment_max_bytes": 65_536}


def recovering(process: Process) -> bool:
    """Return whether the process is still recovering segments."""
    return process.metrics().value("collector_recovering_segments") > 0


def killed_recover(folder: Path, after_s: float) -> bool:
    """Run `collector recover` and kill it after a while. Returns whether it was still running."""
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
def test_kills_neither_lose_nor_duplicate_nor_invent_events(tmp_path: Path, durability: str) -> None:
    """One round in four does not flush, so that the next start has a backlog and can be killed while recovering."""
    ledger, kills, in_recovery = Ledger(), 0, 0
    while kills < times(short=6, long=125):
        backlog = {"flush_interval_s": 3600} if kills % 4 == 0 else {}
        with victim_serving(tmp_path, storage={"durability": durability} | backlog) as process:
            if kills % 4 == 1:  # killed at once, while it recovers the backlog of the previous round
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
        if kills % 4 != 1:  # otherwise keep the backlog for the next round
            recover(tmp_path)
            assert verdict(tmp_path / "data", ledger) is None
    recover(tmp_path)
    assert verdict(tmp_path / "data", ledger) is None
    with victim_serving(tmp_path, storage={"durability": durability}) as process:
        send_unanswered(process.url, ledger)
        assert 0 == process.stop()
    assert verdict(tmp_path / "data", ledger) is None
    assert len(ledger.acked) > 50 * kills
    print(
        f"\n{durability}: {kills} kills, {in_recovery} of them in a recovery; {len(ledger.acked)} acknowledged events; "
        f"{len(ledger.batches)} batches, of which {ledger.repeated} were sent again"
    )


def parts_of(data_dir: Path) -> dict[str, int]:
    """Return the inode of each part; overwriting a part changes it."""
    return {str(path): path.stat().st_ino for path in (data_dir / "events").rglob("*.parquet")}


def rewritten_by_second_recovery(folder: Path, without: str) -> int:
    """Simulate a kill of a recovery after it published its parts but before it released any segment.

    Returns how many parts the next recovery rewrites.
    """
    ledger = Ledger()
    with victim_serving(folder, storage=BACKLOG) as process:
        with load(process.url, ledger):
            acknowledged(ledger, 600)  # several segments
        kill(process)
    journal, aside = folder / "data" / "journal", folder / "aside"
    shutil.copytree(journal, aside)
    recover(folder)
    before = parts_of(folder / "data")
    assert len(before) > 1
    shutil.copytree(aside, journal, dirs_exist_ok=True)  # the state after a kill or power cut before the release
    again = (*victim(without), "recover", "--config", str(folder / "collector.toml"))
    subprocess.run(again, cwd=folder, env=environment(), check=True, capture_output=True, timeout=30)
    assert verdict(folder / "data", ledger) is None
    after = parts_of(folder / "data")
    assert before.keys() == after.keys()
    return sum(before[path] != after[path] for path in before)


def test_recovery_keeps_parts_that_are_already_published(tmp_path: Path) -> None:
    assert 0 == rewritten_by_second_recovery(tmp_path, "none")


def test_suite_detects_overwritten_parts(tmp_path: Path) -> None:
    assert 0 < rewritten_by_second_recovery(tmp_path, "publish_if_absent")
