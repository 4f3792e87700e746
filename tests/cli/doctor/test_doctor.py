"""The doctor: each check on values handed in, what is looked up on files made for it, and the verdict."""

import fcntl
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from collector.cli.doctor import machine as looked_up
from collector.cli.doctor.checks import CHECKS, Examined, Finding, Grade, examine, milliseconds
from collector.cli.doctor.disk import DiskSpeed, measure_disk
from collector.cli.doctor.machine import (
    Folder,
    Kept,
    Machine,
    Port,
    file_system_of,
    listens,
    lock_holder,
    look_at_folder,
    look_at_port,
    look_into,
    version_of,
)
from collector.cli.doctor.verdict import verdict
from collector.daemon.wiring import build_stages
from tests.support import FakeClock, config, event, running

GIB = 1 << 30
FREE = Port(name="server", address="127.0.0.1:8080")
TAKEN = replace(FREE, error="Address already in use", is_taken=True, held_by_systemd=False)
FOLDER = Folder(
    path=Path("/data"),
    is_data_dir=True,
    is_folder=True,
    owner=1000,
    writable=True,
    file_system="ext4",
    free_bytes=1000 * GIB,
    free_inodes=10_000_000,
)
MACHINE = Machine(
    user=1000,
    cores=4,
    memory_bytes=8 * GIB,
    max_descriptors=65_536,
    backlog=4_096,
    clock_synchronised=True,
    now_s=1e9,
    folder=FOLDER,
    kept=Kept(),
    ports=(FREE,),
    serving_pid=None,
    serving_version=None,
)
DISK = DiskSpeed(commit_s=(0.001,) * 98 + (0.004, 0.009), bytes_per_s=100e6)


def examined(
    *,
    folder: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    kept: dict[str, Any] | None = None,
    disk: DiskSpeed = DISK,
    rate: float = 100,
    **sections: dict[str, Any],
) -> Examined:
    """A machine that is fine, with changes."""
    changed = replace(
        MACHINE, folder=replace(FOLDER, **(folder or {})), kept=replace(Kept(), **(kept or {})), **(machine or {})
    )
    sections["server"] = {"trusted_proxies": ["10.0.0.1"]} | sections.get("server", {})
    sections["storage"] = {"min_free_bytes": GIB} | sections.get("storage", {})
    return Examined(config=config(Path("/data"), **sections), machine=changed, disk=disk, rate=rate)


def findings(found: Examined) -> list[tuple[str, str]]:
    return [(each.name, each.grade.name) for each in examine(found) if each.grade is not Grade.OK]


def words(found: Examined, name: str) -> str:
    (one,) = [each.words for each in examine(found) if each.name == name]
    return one


def test_machine_that_is_fine_has_nothing_to_find() -> None:
    assert [] == findings(examined())


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("data_dir", "FAIL", {"folder": {"writable": False}}),
    ("data_dir", "FAIL", {"folder": {"is_folder": False}}),
    ("data_dir", "FAIL", {"folder": {"error": "Permission denied"}}),
    ("user", "WARN", {"machine": {"user": 0}}),
    ("file system", "WARN", {"folder": {"file_system": "tmpfs"}}),
    ("file system", "WARN", {"folder": {"file_system": "overlay"}}),
    ("file system", "WARN", {"folder": {"file_system": "nfs4"}}),
    ("disk space", "FAIL", {"folder": {"free_bytes": GIB}}),
    ("disk space", "WARN", {"folder": {"free_bytes": GIB + 2**26}}),
    ("disk space", "WARN", {"rate": 1e6}),
    ("inodes", "FAIL", {"folder": {"free_inodes": 31}}),
    ("inodes", "WARN", {"folder": {"free_inodes": 9_000}}),
    ("disk", "FAIL", {"disk": DiskSpeed(error="hard links: Operation not permitted")}),
    ("disk", "WARN", {"disk": DiskSpeed(commit_s=(0.2,), bytes_per_s=1e8)}),
    ("file limit", "WARN", {"machine": {"max_descriptors": 1_024}}),
    ("file limit", "FAIL", {"machine": {"max_descriptors": 40}}),
    ("backlog", "WARN", {"machine": {"backlog": 128}}),
    ("memory", "WARN", {"machine": {"memory_bytes": GIB // 4}}),
    ("CPU", "WARN", {"server": {"workers": 5}}),
    ("clock", "WARN", {"machine": {"clock_synchronised": False}}),
    ("clock", "WARN", {"machine": {"clock_synchronised": None}}),
    ("clock", "WARN", {"kept": {"newest_s": 1e9 + 3_600}}),
    ("server port", "FAIL", {"machine": {"ports": (TAKEN,)}}),
    ("server port", "FAIL", {"machine": {"ports": (replace(FREE, error="Permission denied"),)}}),
    ("server port", "WARN", {"machine": {"ports": (replace(TAKEN, held_by_systemd=None),)}}),
    ("running", "WARN", {"machine": {"serving_version": "0.1.0"}}),
    ("quarantine", "WARN", {"kept": {"quarantined": 2}}),
    ("proxies", "WARN", {"server": {"trusted_proxies": []}}),
    ("proxies", "WARN", {"server": {"trusted_proxies": ["0.0.0.0/0"]}}),
    ("proxies", "WARN", {"server": {"trusted_proxies": ["::/0"]}}),
    ("proxies", "WARN", {"server": {"trusted_proxies": ["64.0.0.0/4"]}}),
    ("admin", "WARN", {"admin": {"host": "0.0.0.0"}}),
]


@pytest.mark.parametrize(("name", "grade", "changes"), CASES)
def test_problem_is_found_and_graded(name: str, grade: str, changes: dict[str, Any]) -> None:
    assert [(name, grade)] == findings(examined(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": {"is_data_dir": False}},
        {"folder": {"free_inodes": None}},
        {"machine": {"max_descriptors": -1}},
        {"machine": {"memory_bytes": None, "backlog": None}},
        {"machine": {"ports": (TAKEN,), "serving_pid": 42}},
        {"machine": {"ports": (TAKEN,), "serving_pid": 42, "serving_version": "0.1.0"}},
        {"machine": {"ports": (replace(TAKEN, held_by_systemd=True),)}},
        {"kept": {"segments": 3, "segment_bytes": 1_000}},
        {"kept": {"newest_s": 1e9 - 5}},
        {"server": {"host": "0.0.0.0", "trusted_proxies": []}},
        {"server": {"trusted_proxies": ["10.0.0.0/8"]}},
        {"rate": 100_000, "storage": {"retention_days": 1}},
        {"disk": DiskSpeed(commit_s=(0.2,), bytes_per_s=1e8), "storage": {"durability": "write"}},
    ],
)
def test_what_is_no_problem_is_not_reported(changes: dict[str, Any]) -> None:
    """A collector that runs, a socket of systemd's, a disk that cannot count inodes."""
    assert [] == findings(examined(**changes))


def test_space_is_told_in_days_at_the_rate_that_was_asked() -> None:
    """By the size of an event in the parts that are there, else in the benchmarks'."""
    room = {"free_bytes": GIB + 30 * 100 * 86_400 * 40}
    told = words(examined(folder=room, kept={"bytes_per_event": 40.0}), "disk space")
    assert "for 30 days of 100 events a second, at 40 bytes of Parquet an event as in the newest parts" in told
    told = words(examined(folder=room), "disk space")
    assert "for 16 days of 100 events a second, at 75 bytes of Parquet an event as in the benchmarks" in told


def test_every_check_says_something_or_nothing_at_all() -> None:
    for check in CHECKS:
        assert check.__doc__
        assert all(isinstance(each, Finding) and each.words for each in check(examined()))


def test_verdict_tells_how_long_an_answer_takes() -> None:
    text = "\n".join(verdict(examined()))
    assert "commits a group in 1.0 ms at the median and 9.0 ms at p99" in text
    assert "an answer takes about 3.0 ms, seldom more than 20 ms" in text


@pytest.mark.parametrize(
    ("durability", "survives", "answers"),
    [
        ("fsync", "a power cut", "There this disk commits"),
        ("write", "the death of the process", "There an answer takes about 2.0 ms"),
        ("memory", "an orderly stop", "There an answer waits for nothing"),
    ],
)
def test_verdict_says_what_the_durability_is_worth(durability: str, survives: str, answers: str) -> None:
    text = "\n".join(verdict(examined(storage={"durability": durability})))
    assert f"survives {survives}" in text
    assert answers in text


def test_verdict_needs_no_disk() -> None:
    text = "\n".join(verdict(examined(disk=DiskSpeed(error="hard links"))))
    assert "survives a power cut" in text
    assert "an answer takes" not in text


def test_verdict_names_the_command_that_measures_throughput() -> None:
    assert "run `python -m bench peak`" in verdict(examined())[-1]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 ms"), (0.00019, "0.19 ms"), (0.0021, "2.1 ms"), (0.2, "200 ms")]
)
def test_milliseconds_have_two_digits_that_count(seconds: float, text: str) -> None:
    assert text == milliseconds(seconds)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return look_at_folder(tmp_path)


def test_disk_is_measured_and_nothing_is_left(tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.cli.doctor.disk.COMMITS", 3)
    speed = measure_disk(folder)
    assert (None, 3) == (speed.error, len(speed.commit_s))
    assert 0 < speed.commit_at(0.5) <= speed.commit_at(0.99)
    assert speed.bytes_per_s > 0
    assert [] == list(tmp_path.iterdir())


def test_files_of_a_doctor_that_was_killed_are_swept_by_the_next_start(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in `staging/`, as soon as that is there."""
    (tmp_path / "staging").mkdir()
    monkeypatch.setattr("collector.cli.doctor.disk.rmtree", lambda path, ignore_errors: None)
    monkeypatch.setattr("collector.cli.doctor.disk.COMMITS", 1)
    measure_disk(folder)
    (left,) = (tmp_path / "staging").iterdir()
    assert list(left.iterdir())
    build_stages(config(tmp_path), FakeClock()).writer.prepare()
    assert [] == list(left.iterdir())


@pytest.mark.parametrize(
    ("call", "what"), [("link", "hard links"), ("fsync", "sync of a folder"), ("fdatasync", "Input/output error")]
)
def test_what_the_disk_cannot_do_is_named(
    folder: Folder, call: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    assert what in (measure_disk(folder).error or "")


def test_folder_that_is_missing_is_looked_at_where_it_would_be_made(tmp_path: Path) -> None:
    found = look_at_folder(tmp_path / "a" / "b")
    assert (tmp_path, False, True, True) == (found.path, found.is_data_dir, found.is_folder, found.writable)
    assert found.free_bytes > 0


def test_folder_below_a_plain_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert not look_at_folder(tmp_path / "plain").is_folder
    assert not look_at_folder(tmp_path / "plain" / "data").is_folder


def test_file_system_is_that_of_the_deepest_and_last_mount() -> None:
    mounts = [("/", "ext4"), ("/srv", "tmpfs"), ("/srv/a b", "xfs"), ("/srv", "nfs4")]
    asked = ("/var", "/srv", "/srv/c", "/srv/a b/data", "/srvx")
    assert ["ext4", "nfs4", "nfs4", "xfs", "ext4"] == [file_system_of(Path(path), mounts) for path in asked]
    assert "" == file_system_of(Path("/srv"), [])


def test_file_system_of_this_machine_is_known() -> None:
    assert "proc" == look_at_folder(Path("/proc/self")).file_system


def test_without_proc_the_doctor_knows_less_and_does_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert "" == look_at_folder(tmp_path).file_system
    assert listens(1, 80) is None


def test_process_that_listens_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound, socket.create_connection(bound.getsockname()) as connected:
        assert listens(os.getpid(), bound.getsockname()[1])
        assert not listens(os.getpid(), connected.getsockname()[1])


async def test_what_a_data_dir_keeps_is_counted(tmp_path: Path) -> None:
    assert Kept() == look_into(tmp_path / "nothing")
    async with running(config(tmp_path)) as collector:
        for _ in range(10):
            assert 201 == (await collector.post(event())).status
        await collector.flush()
        await collector.post(event())
        kept = look_into(tmp_path)
    (tmp_path / "quarantine").mkdir(exist_ok=True)
    (tmp_path / "quarantine" / "0123456789abcdef.segment").touch()
    (part,) = (tmp_path / "events").rglob("*.parquet")
    assert 1 == kept.segments
    assert kept.segment_bytes > 100
    assert part.stat().st_size / 10 == kept.bytes_per_event
    assert part.stat().st_mtime == kept.newest_s
    assert 1 == look_into(tmp_path).quarantined


def test_lock_is_seen_and_not_taken(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert lock_holder(lock) is None
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # of another kind
        assert lock_holder(lock) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert os.getpid() == lock_holder(lock)


def test_port_is_free_taken_or_not_to_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        taken = look_at_port("server", "127.0.0.1", port)
    assert (True, "Address already in use", f"127.0.0.1:{port}") == (taken.is_taken, taken.error, taken.address)
    free = look_at_port("server", "127.0.0.1", port)
    assert (None, False) == (free.error, free.is_taken)
    foreign = look_at_port("server", "192.0.2.1", 0)
    assert (False, "Cannot assign requested address") == (foreign.is_taken, foreign.error)


def test_nobody_on_the_admin_port_has_no_version() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    assert version_of("127.0.0.1", port) is None


def test_memory_is_no_more_than_the_control_group_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looked_up, "_number", lambda file: 123_456 if file.name == "memory.max" else None)
    assert 123_456 == looked_up.memory_bytes()
