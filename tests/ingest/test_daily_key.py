"""Daily keys: one a day for all processes of a data_dir, always ready in memory, deleted when the day is over."""

import hashlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from collector.clock import US_PER_DAY
from collector.ingest.daily_key import DailyKeys, KeyMissing
from collector.ingest.enrich import client_ip_policy
from tests.support import NOON_US, FakeClock

DAY = NOON_US // US_PER_DAY
CLIENT = ip_address("192.0.2.7")


class Process:
    """The keys of one process, and the policy that uses them."""

    def __init__(self, data_dir: Path, day: int = DAY) -> None:
        self.clock = FakeClock()
        self.keys = DailyKeys(data_dir, self.clock)
        self.policy = client_ip_policy("hash", self.keys)
        self.at(day)

    def at(self, day: int) -> "Process":
        """Set the clock to noon of a day, and let the thread maintain the keys."""
        self.clock.us = day * US_PER_DAY + NOON_US % US_PER_DAY
        self.keys.tend()
        return self

    def hash(self, day: int, address: str = "192.0.2.7") -> str | None:
        return self.policy(ip_address(address), day * US_PER_DAY + 5)


def names(data_dir: Path) -> list[str]:
    return sorted(path.name for path in data_dir.iterdir())


def key(day: int, fill: bytes = b"k") -> bytes:
    """The contents of a key file, in the format of this version and of earlier ones."""
    return day.to_bytes(8, "big") + 32 * fill


def expected_hash(fill: bytes = b"k") -> str:
    return hashlib.blake2b(CLIENT.packed, key=32 * fill, digest_size=16).hexdigest()


KEY_FILES = ["client_ip-2026-05-28.key", "client_ip-2026-05-29.key"]


def test_hash_is_the_same_all_day_in_all_processes_and_after_a_restart(tmp_path: Path) -> None:
    one, other = Process(tmp_path), Process(tmp_path)
    found = one.policy(CLIENT, DAY * US_PER_DAY)
    assert found is not None
    assert (found, found) == (other.hash(DAY), one.policy(CLIENT, (DAY + 1) * US_PER_DAY - 1))
    assert found == Process(tmp_path).hash(DAY)
    assert re.fullmatch("[0-9a-f]{32}", found)


def test_hash_changes_with_the_day_the_address_and_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    process = Process(tmp_path)
    found = [process.hash(DAY), process.hash(DAY + 1), Process(tmp_path / "other").hash(DAY)]
    found += [process.hash(DAY, "192.0.2.8"), process.hash(DAY, "2001:db8::7")]
    assert 5 == len(set(found))


def test_only_the_owner_can_read_a_key(tmp_path: Path) -> None:
    Process(tmp_path)
    assert dict.fromkeys(KEY_FILES, 0o600) == {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert 2 == len({path.read_bytes()[8:] for path in tmp_path.iterdir()})
    assert {40} == {path.stat().st_size for path in tmp_path.iterdir()}


def test_key_of_a_past_day_is_deleted_from_the_disk(tmp_path: Path) -> None:
    """Nothing on disk can link the day's hashes to addresses. Memory keeps the key in case the clock is set back."""
    process = Process(tmp_path)
    of_yesterday, yesterday = process.hash(DAY), (tmp_path / KEY_FILES[0]).read_bytes()[8:]
    process.at(DAY + 1)
    assert [KEY_FILES[1], "client_ip-2026-05-30.key"] == names(tmp_path)
    assert not [path.name for path in tmp_path.rglob("*") if yesterday in path.read_bytes()]
    assert of_yesterday == process.hash(DAY)
    with pytest.raises(KeyMissing, match="there is no key for 2026-05-28 yet"):
        Process(tmp_path, DAY + 1).hash(DAY)
    process.at(DAY + 2)
    with pytest.raises(KeyMissing):
        process.hash(DAY - 1)


@pytest.mark.parametrize("days", [1, 400])
def test_start_deletes_past_keys_of_a_stopped_collector(tmp_path: Path, days: int) -> None:
    Process(tmp_path)
    tomorrow = (tmp_path / KEY_FILES[1]).read_bytes()
    Process(tmp_path, DAY + days)
    assert 2 == len(names(tmp_path))
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in KEY_FILES}
    assert ({KEY_FILES[1]: tomorrow} if days == 1 else {}) == left


def test_midnight_needs_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day's first event gets the shared key, even if the thread has not run since midnight."""
    process = Process(tmp_path)
    with monkeypatch.context() as patched:
        for call in ("open", "link", "unlink", "listdir"):
            patched.setattr(os, call, None)
        first = process.hash(DAY + 1)
    assert first == Process(tmp_path, DAY + 1).hash(DAY + 1) == process.at(DAY + 1).hash(DAY + 1)


def test_event_of_a_day_without_a_key_is_never_hashed_with_another_days_key(tmp_path: Path) -> None:
    """The lookup raises KeyMissing, and sets `missed` so that `tend` is called at once."""
    process = Process(tmp_path)
    assert not process.keys.missed.is_set()
    for day in (DAY + 2, DAY - 1):
        process.keys.missed.clear()
        with pytest.raises(KeyMissing):
            process.hash(day)
        assert process.keys.missed.is_set()


def torn(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def linked(path: Path) -> None:
    (path.parent / "elsewhere").write_bytes(key(DAY))
    path.symlink_to("elsewhere")


def listening(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's address has at most 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "nothing in it": lambda path: torn(path, b""),
    "cut in its stamp": lambda path: torn(path, key(DAY)[:7]),
    "cut in its key": lambda path: torn(path, key(DAY)[:39]),
    "longer": lambda path: torn(path, key(DAY) + b"k"),
    "zeros, as after a power cut": lambda path: torn(path, bytes(40)),
    "of another day": lambda path: torn(path, key(DAY + 1)),
    "a folder": lambda path: path.mkdir(),
    "a link": linked,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
    "a socket": listening,
}


@pytest.mark.parametrize("how", IN_THE_WAY)
def test_file_that_is_not_a_key_is_left_alone_and_all_processes_use_the_next_name(tmp_path: Path, how: str) -> None:
    """The file stays until its day is over, so that a person can look at it."""
    IN_THE_WAY[how](tmp_path / KEY_FILES[0])
    before = os.lstat(tmp_path / KEY_FILES[0])[:7]  # without its times: a read may set the time of access
    processes = [Process(tmp_path) for _ in range(3)]
    for _ in range(2):
        (found,) = {process.at(DAY).hash(DAY) for process in processes}
    assert found != expected_hash()
    assert before == os.lstat(tmp_path / KEY_FILES[0])[:7]
    assert "client_ip-2026-05-28.1.key" in names(tmp_path)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        processes[0].at(DAY)
    assert descriptors == len(os.listdir("/proc/self/fd"))
    if how != "a folder":
        processes[0].at(DAY + 1)
        assert {KEY_FILES[1], "client_ip-2026-05-30.key"} == {*names(tmp_path)} - {"elsewhere"}


def test_day_has_no_key_if_every_name_is_taken_by_a_broken_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        (tmp_path / f"client_ip-2026-05-28{f'.{number}' if number else ''}.key").touch()
    process = Process(tmp_path)
    assert "no key for today: [Errno 17] none of 10 files holds a valid key" in (process.keys.missing_reason or "")
    process.at(DAY)
    assert 1 == len(caplog.records), "logged once, though it is retried every second"
    assert process.at(DAY + 1).hash(DAY + 1)
    assert process.keys.missing_reason is None


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (key(DAY), {DAY: expected_hash()}),
        (key(DAY + 1), {DAY + 1: expected_hash()}),
        (key(DAY - 1), {}),
        (key(DAY + 2), {}),
        (b"", {}),
        (key(DAY)[:-1], {}),
    ],
)
def test_key_of_an_earlier_version_is_used_on_its_day_and_then_deleted(
    tmp_path: Path, left: bytes, expected: dict[int, str]
) -> None:
    """An upgrade during a day changes none of that day's hashes."""
    (tmp_path / "client_ip.key").write_bytes(left)
    (tmp_path / "client_ip.new").write_bytes(b"left by a crash")
    one, other = Process(tmp_path), Process(tmp_path)
    assert [one.hash(DAY), one.hash(DAY + 1)] == [other.hash(DAY), other.hash(DAY + 1)]
    assert expected == {day: one.hash(day) for day in (DAY, DAY + 1) if one.hash(day) == expected_hash()}
    assert KEY_FILES == names(tmp_path)


def test_half_made_key_of_a_killed_process_is_swept_when_its_day_is_over(tmp_path: Path) -> None:
    """Until then, another worker may be about to link the file."""
    left = ["client_ip-2026-05-28.0123456789abcdef.new", "client_ip-2026-05-29.0123456789abcdef.new"]
    foreign = ["client_ip-2026-05-28.key.bak", "client_ip-2026-05-28.key~", "client_ip-old.key", "lock"]
    for name in (*left, *foreign):
        (tmp_path / name).touch()
    process = Process(tmp_path)
    assert {*left, *foreign} <= {*names(tmp_path)}
    process.at(DAY + 1)
    assert {left[1], *foreign} == {*names(tmp_path)} - {KEY_FILES[1], "client_ip-2026-05-30.key"}
    process.at(DAY + 2)
    assert {*foreign} == {name for name in names(tmp_path) if not name.startswith("client_ip-2026-05-3")}


def test_sweep_ignores_a_file_that_another_worker_deleted_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process, listdir = Process(tmp_path), os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*listdir(folder), "client_ip-2026-05-27.key"])
    process.at(DAY + 1)
    assert [] == caplog.messages
    assert process.keys.missing_reason is None


def test_hashes_stay_the_same_if_the_clock_is_set_back_over_midnight(tmp_path: Path) -> None:
    """In the process that saw both days, and in a process started afterwards."""
    process = Process(tmp_path)
    of_day, of_next = process.hash(DAY), process.hash(DAY + 1)
    process.at(DAY + 1).at(DAY)
    restarted = Process(tmp_path)
    assert (of_day, of_next) == (process.hash(DAY), process.hash(DAY + 1))
    assert (of_day, of_next) == (restarted.hash(DAY), restarted.hash(DAY + 1))


def test_processes_agree_on_every_key_after_a_clock_jumps_ahead_and_back(tmp_path: Path) -> None:
    """Only one process ran `tend` during the jump, which deleted the keys of today and tomorrow from the disk."""
    leaping, steady = Process(tmp_path), Process(tmp_path)
    of_day = leaping.hash(DAY)
    leaping.at(DAY + 400).at(DAY)
    steady.at(DAY)
    restarted = Process(tmp_path)
    everyone = (leaping, steady, restarted)
    assert {of_day} == {process.hash(DAY) for process in everyone}
    assert 1 == len({process.hash(DAY + 1) for process in everyone})
    assert 1 == len({process.at(DAY + 1).hash(DAY + 1) for process in everyone})
    assert 1 == len({process.at(DAY + 400).hash(DAY + 400) for process in everyone})


def test_key_that_is_deleted_on_its_day_is_written_again(tmp_path: Path) -> None:
    process = Process(tmp_path)
    before = process.hash(DAY)
    (tmp_path / KEY_FILES[0]).unlink()
    process.at(DAY)
    assert before == process.hash(DAY) == Process(tmp_path).hash(DAY)


@pytest.mark.parametrize("call", ["open", "link", "fsync", "listdir"])
def test_failing_disk_is_retried_and_keys_in_memory_stay_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def fails(*arguments: object, **keywords: object) -> None:
        raise OSError(5, "Input/output error")

    process = Process(tmp_path)
    before = process.hash(DAY + 1)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        for _ in range(3):
            process.at(DAY + 1)
            assert process.keys.missing_reason is None
            assert before == process.hash(DAY + 1)
        failing = Process(tmp_path, DAY + 2)
    assert 2 == len(caplog.messages), "each process logs it once"
    if call != "listdir":
        assert "no key for today: [Errno 5] Input/output error" == failing.keys.missing_reason
    failing.at(DAY + 2)
    assert failing.keys.missing_reason is None
    process.at(DAY + 2)
    assert failing.hash(DAY + 2) == process.hash(DAY + 2)
    assert ["client_ip-2026-05-30.key", "client_ip-2026-05-31.key"] == names(tmp_path)


def test_key_is_synced_before_it_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut could leave a name whose bytes are zeros, and such a key is no secret."""
    done: list[str] = []

    def watch(call: str, real: Callable[..., None]) -> None:
        def watched(*arguments: object) -> None:
            done.append(call)
            real(*arguments)

        monkeypatch.setattr(os, call, watched)

    watch("fsync", os.fsync)
    watch("link", os.link)
    Process(tmp_path)
    assert 2 * ["fsync", "link", "fsync"] == done


ROTATE = """
import sys
from pathlib import Path
from tests.ingest.test_daily_key import DAY, Process
process = Process(Path(sys.argv[1]), 0)
for line in sys.stdin:
    day = int(line)
    process.at(day)
    print(process.hash(day), process.hash(day + 1), flush=True)
"""


def test_processes_never_use_two_keys_on_one_day(tmp_path: Path) -> None:
    """Three processes reach 200 midnights together, sweep past keys, and find or make the next day's key."""
    command = [sys.executable, "-c", ROTATE, str(tmp_path)]
    root = Path(__file__).parents[2]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(3)
    ]
    keys = []
    for day in range(200):
        for each in started:
            print(day, file=each.stdin, flush=True)
        (found,) = {each.stdout.readline() for each in started if each.stdout}
        keys.append(found.split())
    for each in started:
        each.communicate(timeout=60)
    assert 200 == len({today for today, _ in keys})
    assert [tomorrow for _, tomorrow in keys[:-1]] == [today for today, _ in keys[1:]]
    assert 2 == len(names(tmp_path))
