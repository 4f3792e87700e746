"""Power cuts: acknowledged events survive although all unsynced data is lost, and no sync is superfluous."""

import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.crash.conftest import need, times
from tests.crash.disk import Disk, disk
from tests.crash.rounds import Ledger, NotRecovered, acknowledged, kill, load, recover, verdict, victim_serving

# When the power is cut: after commits without a flush, during flushes, and while segments open in quick succession.
MOMENTS: dict[str, dict[str, Any]] = {
    "commits": {"flush_interval_s": 3600, "segment_max_bytes": 1 << 26},
    "flushes": {"flush_interval_s": 0.2, "segment_max_bytes": 1 << 26},
    "changes of segments": {"flush_interval_s": 0.2, "segment_max_bytes": 65_536},
}


def cut(made: Disk, folder: Path, ledger: Ledger, storage: dict[str, Any], without: str = "none") -> str | None:
    """Cut the power under load; return the verdict after the next mount and a recovery.

    The kernel takes some milliseconds to shut the file system down, and a sync can succeed meanwhile although its data
    is lost. A real power cut has no such time, so an event that is acknowledged in it may be there or not.
    """
    storage = {"data_dir": made.folder / "data"} | storage
    earlier = set(ledger.acked)
    with victim_serving(folder, without, storage=storage) as process, load(process.url, ledger):
        acknowledged(ledger, 1)
        time.sleep(random.uniform(0.3, 0.9))
        promised = set(ledger.acked)
        made.cut_power()
        kill(process)
    assert promised > earlier, "every cut puts acknowledged events at risk"
    ledger.acked &= promised
    return after_the_cut(made, folder, ledger)


def cut_after_stop(folder: Path, ledger: Ledger, without: str = "none", *, journal: bool) -> str | None:
    """Cut the power after an orderly stop, when every segment is released; return the verdict."""
    with disk(folder, journal=journal) as made:
        storage = {"data_dir": made.folder / "data"} | MOMENTS["commits"]
        with victim_serving(folder, without, storage=storage) as process:
            with load(process.url, ledger):
                acknowledged(ledger)
            assert process.stop() == 0
        made.cut_power()
        return after_the_cut(made, folder, ledger)


def after_the_cut(made: Disk, folder: Path, ledger: Ledger) -> str | None:
    made.power_on()
    try:
        recover(folder)
    except NotRecovered as exc:
        return str(exc)
    return verdict(made.folder / "data", ledger)


@pytest.mark.parametrize("moment", MOMENTS)
def test_power_cut_loses_no_acknowledged_event(tmp_path: Path, moment: str) -> None:
    """All cuts hit the same disk, so each start finds the parts and empty folders that the previous cut left."""
    ledger, cuts = Ledger(), times(short=1, long=10)
    with disk(tmp_path) as made:
        for _ in range(cuts):
            assert cut(made, tmp_path, ledger, MOMENTS[moment]) is None
    assert ledger.acked
    print(f"\n{moment}: {cuts} power cuts, {len(ledger.acked)} acknowledged events")


@pytest.mark.parametrize("journal", [True, False], ids=["ext4", "ext4 without a journal"])
def test_power_cut_after_an_orderly_stop_loses_no_part(tmp_path: Path, journal: bool) -> None:
    ledger = Ledger()
    assert cut_after_stop(tmp_path, ledger, journal=journal) is None
    assert ledger.acked


def test_power_cut_during_a_recovery_loses_no_acknowledged_event(tmp_path: Path) -> None:
    """The power is cut while the backlog of a killed process is being published."""
    ledger = Ledger()
    with disk(tmp_path) as made:
        for _ in range(times(short=1, long=10)):
            data_dir = {"data_dir": made.folder / "data"}
            with victim_serving(tmp_path, storage=data_dir | MOMENTS["commits"]) as process:
                with load(process.url, ledger):
                    acknowledged(ledger)
                kill(process)
            with victim_serving(tmp_path, storage=data_dir) as process:
                time.sleep(random.uniform(0, 0.1))
                made.cut_power()
                kill(process)
            made.power_on()
            recover(tmp_path)
            assert verdict(made.folder / "data", ledger) is None
    assert ledger.acked


@pytest.mark.parametrize(("without", "moment"), [("commit_fsync", "commits"), ("part_fsync", "flushes")])
def test_suite_detects_a_missing_sync(tmp_path: Path, without: str, moment: str) -> None:
    """Without one sync, at most eight cuts lose an acknowledged event or leave a part that does not open."""
    ledger = Ledger()
    with disk(tmp_path) as made:
        for _ in range(8):
            found = cut(made, tmp_path, ledger, MOMENTS[moment], without)
            if found is not None:
                print(f"\nwithout {without}: {found}")
                return
    pytest.fail(f"nothing was lost without {without}")


def test_suite_detects_a_missing_sync_of_a_parts_folder(tmp_path: Path) -> None:
    found = cut_after_stop(tmp_path, Ledger(), "part_folder_fsync", journal=False)
    print(f"\nwithout part_folder_fsync: {found}")
    assert found is not None


def unsynced_names(folder: Path, without: str) -> set[str]:
    """Return the folders above the segments that are not synced before the first commit. All must be.

    ext4 syncs the name of a new file together with the file, so a power cut cannot detect a missing sync. The system
    calls can.
    """
    need(shutil.which("strace") is not None, "strace")
    log = folder / "calls"
    tracing = ("strace", "-D", "-f", "-y", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(log))
    with victim_serving(folder, without, prefix=tracing, storage=MOMENTS["commits"]) as process:
        assert process.post(site="a").status == 201
        assert process.stop() == 0
    before, commit, _ = log.read_text().partition("fdatasync(")
    assert commit
    synced = set(re.findall(r" fsync\(\d+<(.*?)>", before))
    needed = {str(folder / "data"), str(folder / "data" / "journal"), str(folder / "data" / "journal" / "0")}
    return needed - synced


def test_name_of_a_segment_is_synced_before_its_first_event_is_acknowledged(tmp_path: Path) -> None:
    assert set() == unsynced_names(tmp_path, "none")


def test_suite_detects_unsynced_names_of_segments(tmp_path: Path) -> None:
    assert unsynced_names(tmp_path, "journal_folder_fsync")
