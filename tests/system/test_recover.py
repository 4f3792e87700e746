"""Events left by a dead process: the next start and `collector recover` publish them, and `inspect` shows them."""

import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collector.journal.record import Header, encode_header
from tests.crash.rounds import kill
from tests.support import event
from tests.system.process import Process, configure, run, serving, wait_until

LONG = {"flush_interval_s": 3600, "segment_max_bytes": 65_536}


def left_behind(folder: Path, count: int = 60) -> set[str]:
    """Make a data_dir with the segments of a killed process that could not publish. Returns their session ids."""
    in_the_way = folder / "data" / "events" / "site=demo"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    with serving(folder, storage=LONG) as process:
        ids = {f"s-{number}" for number in range(count)}
        for session_id in ids:
            assert process.post(event(session_id=session_id, page_referrer="x" * 900)).status == 201
        kill(process)
    in_the_way.unlink()
    return ids


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "data" / "journal").rglob("*.segment"))


def ids_of(process: Process) -> set[str]:
    rows = [row["session_id"] for row in process.rows()]
    assert len(rows) == len(set(rows))
    return set(rows)


@pytest.mark.parametrize("durability", ["fsync", "write", "memory"])
def test_start_publishes_the_events_of_a_killed_process_and_new_ones(tmp_path: Path, durability: str) -> None:
    """With any `durability`, and also from the folders of workers that no longer exist."""
    ids = left_behind(tmp_path)
    journal = tmp_path / "data" / "journal"
    (journal / "7").mkdir()
    moved = segments(tmp_path)[0]
    moved.rename(journal / "7" / moved.name)
    with serving(tmp_path, storage=LONG | {"durability": durability}) as process:
        assert process.post(event(session_id="new")).status == 201
        process.logged("recovered every segment")
        assert ids <= ids_of(process)
        scrape = process.metrics()
        assert (60, 0) == (
            scrape.value("collector_recovered_events_total"),
            scrape.value("collector_recovering_segments"),
        )
        assert 1 == scrape.value("collector_stored_events_total", site="demo")
        assert process.stop() == 0
        assert ids | {"new"} == ids_of(process)
    assert [] == segments(tmp_path)


def test_sites_and_rules_changed_since_then_drop_nothing(tmp_path: Path) -> None:
    left_behind(tmp_path, 2)
    with serving(tmp_path, {"other": {"tracking": False}}) as process:
        process.logged("recovered every segment")
        assert {"s-0", "s-1"} == ids_of(process)


def test_recover_publishes_without_serving(tmp_path: Path) -> None:
    ids = left_behind(tmp_path)
    assert len(segments(tmp_path)) > 1
    done = run("recover", "--config", tmp_path / "collector.toml", folder=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    assert f"recovered {len(ids)} events" in done.stdout.splitlines()[-1]
    assert [] == segments(tmp_path)
    again = run("recover", "--config", tmp_path / "collector.toml", folder=tmp_path)
    assert (0, "recovered 0 events from 0 segments; 0 left\n") == (again.returncode, again.stdout)


def test_recover_is_refused_while_a_collector_serves(tmp_path: Path) -> None:
    with serving(tmp_path) as process:
        done = run("recover", "--config", tmp_path / "collector.toml", folder=tmp_path)
        assert (1, f"collector: data_dir {tmp_path / 'data'}: another collector is using it\n") == (
            done.returncode,
            done.stderr,
        )
        assert process.post().status == 201


def test_recover_that_cannot_publish_a_segment_exits_1_and_says_why(tmp_path: Path) -> None:
    """The parts of one segment cannot be published, and only a later version can read another."""
    left_behind(tmp_path, 1)
    with serving(tmp_path, {"b": {}}, storage=LONG) as process:
        events = tmp_path / "data" / "events"
        process.logged("recovered every segment")
        assert process.post(site="b").status == 201
        kill(process)
    (events / "site=b").touch()
    newer = bytearray(encode_header(Header("00000000000000aa", by_site=True)))
    newer_path = segments(tmp_path)[0].with_name("20260101T000000Z-00000000000000aa.segment")
    newer[8] = 2
    newer[32:] = zlib.crc32(newer[:32]).to_bytes(4, "little")
    newer_path.write_bytes(newer)
    done = run("recover", "--config", tmp_path / "collector.toml", folder=tmp_path)
    assert 1 == done.returncode
    assert "site=b" in done.stderr
    assert "format 2; this collector reads up to 1" in done.stderr
    assert done.stdout.endswith("2 left\n")
    assert newer_path.read_bytes() == newer
    shown = run("inspect", tmp_path / "data", folder=tmp_path)
    assert 1 == shown.returncode
    assert f"{newer_path}: format 2" in shown.stderr


def test_recover_creates_nothing_if_there_is_no_journal(tmp_path: Path) -> None:
    """The folder may be the mount point of a volume that is not mounted yet."""
    (tmp_path / "data").mkdir()
    configure(tmp_path)
    done = run("recover", "--config", "collector.toml", folder=tmp_path)
    assert (0, "recovered 0 events from 0 segments; 0 left\n") == (done.returncode, done.stdout)
    assert [] == list((tmp_path / "data").iterdir())


def test_recover_without_a_data_dir_is_an_error(tmp_path: Path) -> None:
    config_file = configure(tmp_path)
    done = run("recover", "--config", config_file, folder=tmp_path)
    assert (1, f"collector: data_dir {tmp_path / 'data'}: does not exist\n") == (done.returncode, done.stderr)


def test_inspect_distinguishes_a_torn_tail_from_damage(tmp_path: Path) -> None:
    left_behind(tmp_path, 3)
    (segment,) = segments(tmp_path)
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-5])
    torn = run("inspect", segment, folder=tmp_path)
    assert (0, "") == (torn.returncode, torn.stderr)
    assert "never acknowledged" in torn.stdout
    assert " 2 " in torn.stdout.splitlines()[3], "rows that can be read"
    segment.write_bytes(whole[:60] + b"?" + whole[61:])
    damaged = run("inspect", tmp_path / "data", folder=tmp_path)
    assert 1 == damaged.returncode
    assert "bytes damaged" in damaged.stderr
    done = run("recover", "--config", tmp_path / "collector.toml", folder=tmp_path)
    assert 0 == done.returncode
    shown = run("inspect", tmp_path / "data", folder=tmp_path)
    assert (0, True) == (shown.returncode, f"quarantine/{segment.stem[-16:]}.damaged: " in shown.stdout)


def test_inspect_reads_a_segment_in_quarantine_only_if_named(tmp_path: Path) -> None:
    """For the entire folder, it only lists what is in quarantine."""
    left_behind(tmp_path, 3)
    (segment,) = segments(tmp_path)
    kept = tmp_path / "data" / "quarantine" / f"{segment.stem[-16:]}.segment"
    kept.parent.mkdir()
    segment.rename(kept)
    shown = run("inspect", kept, folder=tmp_path)
    assert (0, "") == (shown.returncode, shown.stderr)
    assert " 3 " in shown.stdout.splitlines()[3]
    whole = run("inspect", tmp_path / "data", folder=tmp_path)
    assert (0, True) == (whole.returncode, f"in quarantine: quarantine/{kept.name}: " in whole.stdout)


def days_ago(days: int) -> str:
    return f"date={(datetime.now(UTC).date() - timedelta(days)).isoformat()}"


@pytest.fixture
def old_parts(tmp_path: Path) -> dict[int, Path]:
    """Parts by age in days."""
    paths = {days: tmp_path / "data" / "events" / "site=demo" / days_ago(days) / "1.parquet" for days in (0, 400, 402)}
    for path in paths.values():
        path.parent.mkdir(parents=True)
        path.write_bytes(b"PAR1")
    return paths


def test_expire_drops_old_days_while_a_collector_serves(tmp_path: Path, old_parts: dict[int, Path]) -> None:
    with serving(tmp_path) as process:
        done = run("expire", "--older-than", "400d", "--config", tmp_path / "collector.toml", folder=tmp_path)
        assert (0, "deleted 1 part\n", "") == (done.returncode, done.stdout, done.stderr)
        assert process.post().status == 201
        assert process.stop() == 0
    assert {0: True, 400: True, 402: False} == {days: path.exists() for days, path in old_parts.items()}


@pytest.mark.parametrize("days", ["0", "0d", "-1d", "1.5d", "d", "4w", ""])
def test_expire_refuses_an_invalid_number_of_days(tmp_path: Path, days: str) -> None:
    done = run("expire", f"--older-than={days}", folder=tmp_path)
    assert 2 == done.returncode
    assert "should be a number of days, such as 400 or 400d" in done.stderr


def test_retention_days_drops_old_days_while_serving(tmp_path: Path, old_parts: dict[int, Path]) -> None:
    with serving(tmp_path, storage={"retention_days": 401}) as process:
        wait_until(lambda: process.metrics().value("collector_expired_parts_total") == 1, "the old day is dropped")
        assert {0: True, 400: True, 402: False} == {days: path.exists() for days, path in old_parts.items()}
        assert process.stop() == 0
