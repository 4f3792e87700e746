"""The doctor: the checks on given facts, the collection of facts on prepared files, and the verdict."""

import fcntl
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from collector.cli.doctor import machine as facts
from collector.cli.doctor.checks import CHECKS, Examined, Grade, examine, milliseconds
from collector.cli.doctor.disk import DiskSpeed, measure_disk
from collector.cli.doctor.machine import (
    ENOUGH_ROWS,
    Folder,
    Kept,
    Machine,
    Port,
    UnixSocket,
    file_system_of,
    listens,
    lock_holder,
    look_at_folder,
    look_at_port,
    look_at_socket,
    look_into,
    version_of,
)
from collector.cli.doctor.verdict import verdict
from collector.daemon.wiring import build_stages
from tests.support import FakeClock, config, event, running

GIB = 1 << 30
SOCKET = Path("/run/collector/collector.sock")
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
    unix_socket=None,
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
    """A machine without problems, with changes."""
    changed = replace(
        MACHINE, folder=replace(FOLDER, **(folder or {})), kept=replace(Kept(), **(kept or {})), **(machine or {})
    )
    sections["server"] = {"trusted_proxies": ["10.0.0.1"]} | sections.get("server", {})
    sections["storage"] = {"min_free_bytes": GIB} | sections.get("storage", {})
    return Examined(config=config(Path("/data"), **sections), machine=changed, disk=disk, rate=rate)


def problems(found: Examined) -> list[tuple[str, str]]:
    return [(each.name, each.grade.name) for each in examine(found) if each.grade is not Grade.OK]


def message(found: Examined, name: str) -> str:
    (one,) = [each.message for each in examine(found) if each.name == name]
    return one


def test_machine_without_problems_gets_no_warning() -> None:
    assert [] == problems(examined())


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
    ("Unix socket", "FAIL", {"machine": {"unix_socket": UnixSocket(path=SOCKET, error="no folder")}}),
    ("Unix socket", "WARN", {"machine": {"unix_socket": UnixSocket(path=SOCKET, error="taken", is_taken=True)}}),
    ("proxies", "WARN", {"server": {"unix_socket": str(SOCKET), "trusted_proxies": ["127.0.0.1"]}}),
    ("proxies", "WARN", {"server": {"host": ""}}),
    ("ports", "FAIL", {"server": {"port": 8080}, "admin": {"port": 8080}}),
    ("ports", "FAIL", {"server": {"port": 8080, "host": "0.0.0.0"}, "admin": {"port": 8080}}),
    ("running", "WARN", {"machine": {"serving_version": "0.1.0"}}),
    ("quarantine", "WARN", {"kept": {"quarantined": 2}}),
    ("proxies", "WARN", {"server": {"trusted_proxies": []}}),
    ("proxies", "WARN", {"server": {"trusted_proxies": ["0.0.0.0/0"]}}),
    ("proxies", "WARN", {"server": {"trusted_proxies": ["::/0"]}}),
    ("proxies", "WARN", {"server": {"trusted_proxies": ["64.0.0.0/4"]}}),
    ("admin", "WARN", {"admin": {"host": "0.0.0.0"}}),
    ("partitions", "WARN", {"sites": {f"site-{number}": {} for number in range(1_001)}}),
]


@pytest.mark.parametrize(("name", "grade", "changes"), CASES)
def test_problem_is_found_and_graded(name: str, grade: str, changes: dict[str, Any]) -> None:
    assert [(name, grade)] == problems(examined(**changes))


def test_every_check_finds_a_problem_in_some_case() -> None:
    found = {
        check
        for _, _, changes in CASES
        for check in CHECKS
        if any(each.grade is not Grade.OK for each in check(examined(**changes)))
    }
    assert set(CHECKS) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": {"is_data_dir": False}},
        {"folder": {"free_inodes": None}},
        {"machine": {"max_descriptors": -1}},
        {"machine": {"memory_bytes": None, "backlog": None}},
        {"machine": {"ports": (TAKEN,), "serving_pid": 42}},
        {"machine": {"unix_socket": UnixSocket(path=SOCKET)}},
        {"machine": {"unix_socket": UnixSocket(path=SOCKET, error="taken", is_taken=True), "serving_pid": 42}},
        {"server": {"unix_socket": str(SOCKET), "host": "", "trusted_proxies": ["unix"]}},
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
def test_harmless_facts_get_no_warning(changes: dict[str, Any]) -> None:
    """Such as a running collector, a port that systemd holds, and a file system that does not count inodes."""
    assert [] == problems(examined(**changes))


def test_disk_space_is_given_in_days_at_the_expected_rate() -> None:
    """From the size of an event in the newest parts; from the benchmarks if those have too few rows."""
    room = {"free_bytes": GIB + 30 * 100 * 86_400 * 40}
    from_parts = message(examined(folder=room, kept={"bytes_per_event": 40.0}), "disk space")
    assert "30 days at 100 events a second and 40 bytes of Parquet an event (as in the newest parts)" in from_parts
    one_day = {"free_bytes": GIB + 100 * 86_400 * 75}
    assert "lasts 1 day at" in message(examined(folder=one_day), "disk space")
    assert "lasts 1,000,000 days at" in message(examined(folder=room, rate=5e-324), "disk space")
    from_benchmarks = message(examined(folder=room), "disk space")
    assert "16 days at 100 events a second and 75 bytes of Parquet an event " in from_benchmarks
    assert "(as in the benchmarks: the newest parts have fewer than 1,000 rows)" in from_benchmarks


def test_verdict_estimates_the_response_time() -> None:
    text = "\n".join(verdict(examined()))
    assert "commits it in 1.0 ms (median) or 9.0 ms (p99)" in text
    assert "a response takes about 3.0 ms, rarely more than 20 ms" in text


@pytest.mark.parametrize(
    ("durability", "survives", "response"),
    [
        ("fsync", "a power cut", "On this disk a response takes about 3.0 ms"),
        ("write", "a crash or kill of the process", "A response takes about 2.0 ms. With"),
        ("memory", "an orderly stop", "A response does not wait for the disk"),
    ],
)
def test_verdict_says_what_the_durability_survives(durability: str, survives: str, response: str) -> None:
    text = "\n".join(verdict(examined(storage={"durability": durability})))
    assert f"survives {survives}" in text
    assert response in text


def test_verdict_without_disk_speed_gives_no_response_time() -> None:
    text = "\n".join(verdict(examined(disk=DiskSpeed(error="hard links"))))
    assert "survives a power cut" in text
    assert "response" not in text


def test_verdict_names_the_command_that_measures_throughput() -> None:
    assert "run `python -m bench peak`" in verdict(examined())[-1]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 ms"), (0.00019, "0.19 ms"), (0.0021, "2.1 ms"), (0.2, "200 ms")]
)
def test_milliseconds_have_two_significant_digits(seconds: float, text: str) -> None:
    assert text == milliseconds(seconds)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return look_at_folder(tmp_path)


def test_measuring_the_disk_leaves_no_files(tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.cli.doctor.disk.COMMITS", 3)
    speed = measure_disk(folder)
    assert (None, 3) == (speed.error, len(speed.commit_s))
    assert 0 < speed.commit_at(0.5) <= speed.commit_at(0.99)
    assert speed.bytes_per_s > 0
    assert [] == list(tmp_path.iterdir())


def test_next_start_sweeps_the_files_of_a_killed_doctor(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in `staging/` once it exists."""
    (tmp_path / "staging").mkdir()
    monkeypatch.setattr("collector.cli.doctor.disk.rmtree", lambda path, ignore_errors: None)
    monkeypatch.setattr("collector.cli.doctor.disk.COMMITS", 1)
    measure_disk(folder)
    (left,) = (tmp_path / "staging").iterdir()
    assert list(left.iterdir())
    build_stages(config(tmp_path), FakeClock()).writer.prepare()
    assert [] == list(left.iterdir())


@pytest.mark.parametrize(
    ("call", "what"), [("link", "hard links"), ("fsync", "fsync of a folder"), ("fdatasync", "Input/output error")]
)
def test_operation_that_the_disk_refuses_is_named(
    folder: Folder, call: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    assert what in (measure_disk(folder).error or "")


def test_missing_data_dir_is_examined_where_it_would_be_created(tmp_path: Path) -> None:
    found = look_at_folder(tmp_path / "a" / "b")
    assert (tmp_path, False, True, True) == (found.path, found.is_data_dir, found.is_folder, found.writable)
    assert found.free_bytes > 0


def test_plain_file_and_paths_below_it_are_not_folders(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert not look_at_folder(tmp_path / "plain").is_folder
    assert not look_at_folder(tmp_path / "plain" / "data").is_folder


def test_file_system_is_that_of_the_deepest_mount_and_the_last_one_there() -> None:
    mounts = [("/", "ext4"), ("/srv", "tmpfs"), ("/srv/a b", "xfs"), ("/srv", "nfs4")]
    paths = ("/var", "/srv", "/srv/c", "/srv/a b/data", "/srvx")
    assert ["ext4", "nfs4", "nfs4", "xfs", "ext4"] == [file_system_of(Path(path), mounts) for path in paths]
    assert "" == file_system_of(Path("/srv"), [])


def test_file_system_of_proc_is_proc() -> None:
    assert "proc" == look_at_folder(Path("/proc/self")).file_system


def test_facts_are_unknown_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert "" == look_at_folder(tmp_path).file_system
    assert listens(1, 80) is None


def test_listening_process_is_recognised() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound, socket.create_connection(bound.getsockname()) as connected:
        assert listens(os.getpid(), bound.getsockname()[1])
        assert not listens(os.getpid(), connected.getsockname()[1])


@pytest.mark.parametrize(
    ("rows", "is_known"), [((1,), False), ((ENOUGH_ROWS - 1,), False), ((1, ENOUGH_ROWS - 1), True)]
)
def test_size_of_an_event_needs_enough_rows(tmp_path: Path, rows: tuple[int, ...], is_known: bool) -> None:
    """A part of one row takes 18 KB, nearly all of it footer; it would make a disk look full within days."""
    folder = tmp_path / "events" / "site=demo" / "date=2026-05-12"
    folder.mkdir(parents=True)
    parts = [folder / f"{number}.parquet" for number in range(len(rows))]
    for part, count in zip(parts, rows, strict=True):
        pq.write_table(pa.table({"n": range(count)}), part)
    expected = sum(part.stat().st_size for part in parts) / ENOUGH_ROWS if is_known else None
    assert expected == look_into(tmp_path).bytes_per_event


async def test_segments_parts_and_quarantined_files_are_counted(tmp_path: Path) -> None:
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
    assert part.stat().st_mtime == kept.newest_s
    assert 1 == look_into(tmp_path).quarantined


def test_lock_holder_is_found_without_taking_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert lock_holder(lock) is None
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)  # a POSIX lock, not a flock
        assert lock_holder(lock) is None
        fcntl.flock(file, fcntl.LOCK_EX)
        assert os.getpid() == lock_holder(lock)


def test_port_is_free_taken_or_unusable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        taken = look_at_port("server", "127.0.0.1", port)
    assert (True, "Address already in use", f"127.0.0.1:{port}") == (taken.is_taken, taken.error, taken.address)
    free = look_at_port("server", "127.0.0.1", port)
    assert (None, False) == (free.error, free.is_taken)
    foreign = look_at_port("server", "192.0.2.1", 0)
    assert (False, "Cannot assign requested address") == (foreign.is_taken, foreign.error)


def test_no_collector_on_the_admin_port_gives_no_version() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    assert version_of("127.0.0.1", port) is None


def test_memory_is_limited_by_the_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_number", lambda file: 123_456 if file.name == "memory.max" else None)
    assert 123_456 == facts.memory_bytes()


def test_path_of_the_unix_socket_that_is_too_long_once_it_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.chdir(folder)
    found = look_at_socket(Path("a.sock"))
    assert "the absolute path has more than 107 bytes" in (found.error or "")


def test_path_of_the_unix_socket_is_looked_at_and_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert UnixSocket(path=tmp_path / "free") == look_at_socket(Path("free"))
    assert f"the folder {tmp_path / 'missing'} does not exist" == look_at_socket(Path("missing/a")).error
    (tmp_path / "file").touch()
    assert "no socket is there" in (look_at_socket(Path("file")).error or "")
    assert "Not a directory" == look_at_socket(Path("file/a")).error
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("a")
        bound.listen()
        assert look_at_socket(Path("a")).is_taken
    assert UnixSocket(path=tmp_path / "a") == look_at_socket(Path("a")), "nobody listens any more"
    assert {"a", "file"} == {path.name for path in tmp_path.iterdir()}
