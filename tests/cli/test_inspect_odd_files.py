"""`inspect` of folders with odd files: each is reported as broken, with its reason, and the others are still shown."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from collector.cli.main import main
from collector.config import SiteSettings
from collector.events import Event
from collector.ingest.pipeline import Arrival, accept
from collector.journal.record import Header, crc_seed, encode, encode_header
from collector.parts.table import EVENT_SCHEMA
from collector.sites import build_site
from tests.crash.conftest import need
from tests.support import NOON_US, body, config, event, running
from tests.system.process import COMMAND, READY_S, environment, run

Capture = pytest.CaptureFixture[str]
SEGMENT = "0123456789abcdef.segment"
TIMES = pa.timestamp("us", "UTC")
END_US = 253_402_300_800_000_000  # the year 10000
BEGIN_US = -62_135_596_800_000_000  # the year 1


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Fail a test that blocks, such as one that opens a pipe without a writer."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("blocked for 30 s"))
    signal.alarm(30)
    yield
    signal.alarm(0)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """One part of `demo` with two events."""
    folder = tmp_path / "data"

    async def write() -> None:
        async with running(config(folder)) as collector:
            for number in range(2):
                assert 201 == (await collector.post(event(session_id=f"s-{number}"))).status
            await collector.flush()

    asyncio.run(write())
    return folder


def day_of(data_dir: Path) -> Path:
    return data_dir / "events" / "site=demo" / "date=2026-05-28"


def inspected(capsys: Capture, *arguments: str | Path) -> tuple[int, list[str], list[str]]:
    """The exit code, and the lines of stdout and stderr."""
    code = main(["inspect", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def table(**columns: pa.Array) -> Callable[[Path], None]:
    """A function that writes a part with these columns."""
    return lambda path: pq.write_table(pa.table(columns), path)


def received(*moments: int | None) -> Callable[[Path], None]:
    return table(received_at=pa.array(moments, TIMES))


def twice(path: Path) -> None:
    columns = [pa.array([0], TIMES)] * 2
    pq.write_table(pa.Table.from_arrays(columns, ["received_at", "received_at"]), path)


def sock(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is limited to 108 bytes
        bound.bind(path.name)
        os.chdir(here)


def linked(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def content(data: bytes) -> Callable[[Path], int]:
    return lambda path: path.write_bytes(data)


# A file with the name of a part, and the reason that `inspect` gives.
ODD_PARTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no received_at": (table(a=pa.array([1])), "has no received_at column; should have one"),
    "no columns": (table(), "has no received_at column; should have one"),
    "two of them": (twice, "has 2 received_at columns; should have one"),
    "text": (table(received_at=pa.array(["2026-05-28"])), "received_at is string; should be timestamp[us, tz=UTC]"),
    "a number": (table(received_at=pa.array([1])), "received_at is int64; should be timestamp[us, tz=UTC]"),
    "nothing": (table(received_at=pa.nulls(3)), "received_at is null; should be timestamp[us, tz=UTC]"),
    "a list": (table(received_at=pa.array([[1]])), "received_at is list<"),
    "nanoseconds": (
        table(received_at=pa.array([0], pa.timestamp("ns", "UTC"))),
        "received_at is timestamp[ns, tz=UTC]",
    ),
    "no zone": (table(received_at=pa.array([0], pa.timestamp("us"))), "received_at is timestamp[us]; should be"),
    "the year 10000": (received(0, END_US), "received_at lies outside the years 1 to 9999"),
    "the last year": (received(2**63 - 1), "received_at lies outside the years 1 to 9999"),
    "the year 0": (received(BEGIN_US - 1, 0), "received_at lies outside the years 1 to 9999"),
    "the first year": (received(-(2**63)), "received_at lies outside the years 1 to 9999"),
    "null": (received(0, None), "received_at is null in 1 of 2 rows"),
    "empty": (content(b""), ""),
    "junk": (content(b"PAR1" + bytes(range(256)) * 9 + b"PAR1"), ""),
    "words": (content(b"not a part\n\x1b[2J"), ""),
    "a folder": (Path.mkdir, "is a folder"),
    "a pipe": (os.mkfifo, "is a pipe"),
    "a socket": (sock, "is a socket"),
    "a device": (linked("/dev/zero"), "is a device"),
    "a dangling symlink": (linked("nothing"), "is a dangling symlink"),
    "a symlink to itself": (linked("odd.parquet"), "Too many levels of symbolic links"),
    "a symlink to a folder": (linked("."), "is a folder"),
}


@pytest.mark.parametrize("name", ODD_PARTS)
def test_odd_part_is_broken_with_its_reason_and_others_are_shown(name: str, data_dir: Path, capsys: Capture) -> None:
    make, reason = ODD_PARTS[name]
    odd = day_of(data_dir) / "odd.parquet"
    make(odd)
    code, out, err = inspected(capsys, data_dir, "--rows", "9")
    (line,) = err
    assert (1, True) == (code, line.startswith(f"broken: {odd}: {reason}")), line
    (footer,) = [line.split() for line in out if line.strip().startswith("all")]
    assert ("2", ["1", "broken"]) == (footer[1], footer[-2:])
    assert ["s-0", "s-1"] == [json.loads(line)["session_id"] for line in out if line.startswith("{")]


@pytest.mark.parametrize("name", [name for name in ODD_PARTS if not name.endswith("folder")])
def test_inspect_of_an_odd_part_alone_exits_1(name: str, tmp_path: Path, capsys: Capture) -> None:
    make, _ = ODD_PARTS[name]
    odd = tmp_path / "odd.parquet"
    make(odd)
    code, _, err = inspected(capsys, odd, "--rows", "1")
    assert (1, 1) == (code, len(err))
    assert str(odd) in err[0]


def test_first_and_last_moment_of_the_supported_years_are_good(tmp_path: Path, capsys: Capture) -> None:
    received(BEGIN_US, END_US - 1)(tmp_path / "odd.parquet")
    code, out, err = inspected(capsys, tmp_path)
    assert (0, []) == (code, err)
    assert any("9999-12-31 23:59:59" in line for line in out)


def test_part_inside_a_folder_named_like_a_part_is_counted(data_dir: Path, capsys: Capture) -> None:
    """Spark writes such folders."""
    (good,) = day_of(data_dir).glob("*.parquet")
    folder = day_of(data_dir) / "of-spark.parquet"
    folder.mkdir()
    shutil.copy(good, folder / "part-0.parquet")
    code, out, err = inspected(capsys, data_dir)
    assert (1, [f"broken: {folder}: is a folder"]) == (code, err)
    assert any("of-spark.parquet" in line and " 2 " in line for line in out)


# Columns with values that cannot be shown, in a part whose `received_at` is right.
UNSHOWN: dict[str, pa.Array] = {
    "event_time": pa.array([2**62], TIMES),
    "page_title": pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    ),
}


@pytest.mark.parametrize("column", UNSHOWN)
def test_part_whose_rows_cannot_be_shown_is_broken_with_the_rows_option(
    column: str, data_dir: Path, capsys: Capture
) -> None:
    columns = {field.name: pa.nulls(1, field.type) for field in EVENT_SCHEMA}
    columns |= {"received_at": pa.array([NOON_US + 9], TIMES), column: UNSHOWN[column]}
    odd = day_of(data_dir) / "odd.parquet"
    pq.write_table(pa.table(columns), odd)
    code, out, err = inspected(capsys, data_dir, "--rows", "2")
    (line,) = err
    assert (1, True) == (code, line.startswith(f"broken: {odd}: its rows cannot be shown: ")), line
    assert ["s-0", "s-1"] == [json.loads(line)["session_id"] for line in out if line.startswith("{")]


def segment(*received_us: int) -> bytes:
    """An intact segment with an event for each of these times."""
    arrival = Arrival(build_site("demo", SiteSettings()), ip_address("192.0.2.1"))
    data = encode_header(Header(SEGMENT[:16], by_site=True))
    for moment in received_us:
        kept = accept(arrival, body(), moment, lambda address, received_us: None)
        assert isinstance(kept, Event)
        data += encode([kept], crc_seed(SEGMENT[:16]))
    return data


ODD_SEGMENTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "the year 10000": (content(segment(0, END_US)), "received_at lies outside the years 1 to 9999"),
    "the last year": (content(segment(2**63 - 1)), "received_at lies outside the years 1 to 9999"),
    "the year 0": (content(segment(BEGIN_US - 1, 0)), "received_at lies outside the years 1 to 9999"),
    "the first year": (content(segment(-(2**63))), "received_at lies outside the years 1 to 9999"),
    "junk": (content(b"junk" * 99), "36 bytes damaged"),
    "a folder": ODD_PARTS["a folder"],
    "a pipe": ODD_PARTS["a pipe"],
    "a socket": ODD_PARTS["a socket"],
    "a device": ODD_PARTS["a device"],
    "a dangling symlink": ODD_PARTS["a dangling symlink"],
    "a symlink to itself": (linked(SEGMENT), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("name", ODD_SEGMENTS)
def test_odd_segment_is_broken_with_its_reason_and_others_are_shown(name: str, data_dir: Path, capsys: Capture) -> None:
    make, reason = ODD_SEGMENTS[name]
    worker = data_dir / "journal" / "0"
    worker.mkdir(parents=True, exist_ok=True)
    for left in worker.iterdir():
        left.unlink()
    make(worker / SEGMENT)
    (worker / ("20260528T202640Z-" + SEGMENT)).write_bytes(segment(NOON_US, NOON_US))
    code, out, err = inspected(capsys, data_dir)
    assert (1, [f"broken: {worker / SEGMENT}: {reason}"]) == (code, err)
    footers = [line.split() for line in out if line.strip().startswith("all")]
    assert ["1", "2"] == [footer[1] for footer in footers]


def test_segment_may_begin_at_the_epoch(tmp_path: Path, capsys: Capture) -> None:
    """The clock of a machine without a battery starts there."""
    (tmp_path / SEGMENT).write_bytes(segment(0, 86_400_000_000))
    code, out, _ = inspected(capsys, tmp_path)
    assert (0, True) == (code, any("1970-01-01 00:00:00" in line and "1970-01-02" in line for line in out))


def test_odd_names_are_escaped_on_one_line(data_dir: Path, capsys: Capture) -> None:
    """In the table, in the list of quarantined files and on stderr."""
    day = day_of(data_dir)
    (good,) = day_of(data_dir).glob("*.parquet")
    shutil.copy(good, day / os.fsdecode(b"gr\xfc\xdfe.parquet"))
    folder = day / os.fsdecode(b"\xff[bold]\n\x1b[2J")
    folder.mkdir()
    shutil.copy(good, folder / "a.parquet")
    (day / os.fsdecode(b"\n\xfc.parquet")).write_bytes(b"junk")
    (data_dir / "quarantine").mkdir(exist_ok=True)
    (data_dir / "quarantine" / os.fsdecode(b"\xfc\n")).write_bytes(b"kept")
    code, out, err = inspected(capsys, data_dir, "--rows", "9")
    (line,) = err
    assert (1, True) == (code, line.startswith(f"broken: {day_of(data_dir)}/\\n\\udcfc.parquet: ")), line
    assert any("\\udcff[bold]\\n\\x1b[2J" in line for line in out)
    assert "in quarantine: quarantine/\\udcfc\\n: 4 bytes" in out
    assert 6 == sum(line.startswith("{") for line in out)


def test_inspect_of_all_odd_parts_together_ends(data_dir: Path) -> None:
    """In a separate process, because an alarm does not end code that blocks inside a library."""
    for number, (make, _) in enumerate(ODD_PARTS.values()):
        folder = day_of(data_dir).parent / f"date=2026-06-{number + 1:02}"
        folder.mkdir()
        make(folder / "odd.parquet")
    done = run("inspect", data_dir, "--rows", "1", folder=data_dir)
    assert (1, len(ODD_PARTS)) == (done.returncode, len(done.stderr.splitlines())), done.stderr
    assert 1 == sum(line.startswith("{") for line in done.stdout.splitlines())


def powerless(*arguments: str | Path, folder: Path) -> tuple[int, str]:
    """The exit code and stderr of the collector without capabilities, so that file modes bind root too."""
    need(shutil.which("setpriv") is not None, "setpriv, of util-linux")
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *COMMAND, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=READY_S,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("what", "mode"),
    [("part", 0), ("folder", 0), ("day", 0), ("segment", 0), ("part of a day that can only be listed", 0o400)],
)
def test_unreadable_file_or_folder_is_broken(what: str, mode: int, data_dir: Path) -> None:
    folder = data_dir / "journal" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SEGMENT).write_bytes(segment(NOON_US))
    (part,) = day_of(data_dir).glob("*.parquet")
    named = {"folder": data_dir, "day": day_of(data_dir), "segment": folder / SEGMENT}.get(what, part)
    closed = named.parent if mode else named
    closed.chmod(mode)
    try:
        found = powerless("inspect", data_dir, "--rows", "1", folder=data_dir.parent)
    finally:
        closed.chmod(0o700)
    assert (1, f"broken: {named}: Permission denied\n") == found


def test_quarantine_that_can_only_be_listed_is_ignored(data_dir: Path) -> None:
    quarantine = data_dir / "quarantine"
    quarantine.mkdir(exist_ok=True)
    (quarantine / f"{SEGMENT}.torn").write_bytes(b"torn")
    quarantine.chmod(0o400)
    try:
        assert (0, "") == powerless("inspect", data_dir, folder=data_dir.parent)
    finally:
        quarantine.chmod(0o700)


def test_part_deleted_before_its_rows_are_read_is_ignored(
    data_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are read in a second pass; by then a collector may have deleted the part, or its entire day."""
    inspect = import_module("collector.cli.inspect")
    other = data_dir / "events" / "site=demo" / "date=2026-05-29"
    shutil.copytree(day_of(data_dir), other)
    look = inspect.look

    def delete_after_look(path: Path) -> object:
        health = look(path)
        if path.parent == other:
            shutil.rmtree(other)
        return health

    monkeypatch.setattr(inspect, "look", delete_after_look)
    code, out, err = inspected(capsys, data_dir, "--rows", "9")
    assert (0, []) == (code, err)
    assert 2 == sum(line.startswith("{") for line in out)


def test_impossible_path_exits_1_and_says_why(tmp_path: Path, capsys: Capture) -> None:
    assert (1, [], [f"collector: {tmp_path}/{'x' * 300}: File name too long"]) == inspected(
        capsys, tmp_path / ("x" * 300)
    )
    (tmp_path / "file").touch()
    assert (1, [], [f"collector: {tmp_path}/file/x: no such file or folder"]) == inspected(
        capsys, tmp_path / "file" / "x"
    )
    os.mkfifo(tmp_path / "pipe")
    assert (
        1,
        [],
        [f"collector: {tmp_path}/pipe: is a pipe; should be a data_dir, a segment or a part"],
    ) == inspected(capsys, tmp_path / "pipe")


@pytest.mark.parametrize("rows", ["-1", "1.5", "many", "\u0661"])
def test_rows_option_that_is_not_a_count_is_wrong_usage(rows: str, tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(tmp_path), "--rows", rows])
    assert 2 == left.value.code
    assert "should be a number of rows, such as 5" in capsys.readouterr().err


def test_rows_option_may_exceed_the_number_of_rows(data_dir: Path, capsys: Capture) -> None:
    code, out, _ = inspected(capsys, data_dir, "--rows", "9" * 30)
    assert (0, 2) == (code, sum(line.startswith("{") for line in out))
