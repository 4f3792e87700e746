"""The log: one record is one line or one entry, and data from clients can forge neither."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.log.setup import MAX_CHARACTERS, JournalHandler, Lines, PrefixedLines, escape, is_journal

FORGED = "GET /\n2026-11-25T00:00:00+0000 ERROR collector: all is lost\r\x1b[2J\u2028\ud800\u202e"


def record(message: str, *args: object, level: int = logging.ERROR, failed: bool = False) -> logging.LogRecord:
    try:
        if failed:
            raise ValueError(FORGED)
    except ValueError:
        exc_info = sys.exc_info()
    else:
        exc_info = (None, None, None)
    return logging.LogRecord("collector.x", level, "/x.py", 7, message, args, exc_info, "act")


def fields(datagram: bytes) -> dict[str, str]:
    """An entry as the journal reads it."""
    found = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        size = int.from_bytes(rest[:8], "little")
        assert rest[8 + size : 9 + size] == b"\n"
        found[name.decode()] = rest[8 : 8 + size].decode()
        datagram = rest[9 + size :]
    return found


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "socket"))
        bound.setblocking(False)
        yield bound


@pytest.fixture
def otherwise() -> Kept:
    return Kept()


@pytest.fixture
def handler(tmp_path: Path, otherwise: Kept) -> Iterator[JournalHandler]:
    handler = JournalHandler(3, otherwise, str(tmp_path / "socket"))
    yield handler
    handler.close()


def test_entry_has_level_place_and_worker_as_fields(journal: socket.socket, handler: JournalHandler) -> None:
    handler.handle(record("flush failed; %d stay", 5))
    assert {
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "collector",
        "LOGGER": "collector.x",
        "CODE_FILE": "/x.py",
        "CODE_LINE": "7",
        "CODE_FUNC": "act",
        "WORKER": "3",
        "MESSAGE": "flush failed; 5 stay",
    } == fields(journal.recv(1 << 20))


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7), (5, 7)],
)
def test_levels_become_priorities(journal: socket.socket, handler: JournalHandler, level: int, number: int) -> None:
    handler.handle(record("x", level=level))
    assert str(number) == fields(journal.recv(1 << 20))["PRIORITY"]
    assert f"<{number}>collector.x: x" == PrefixedLines().format(record("x", level=level))


def test_traceback_is_in_the_same_entry(journal: socket.socket, handler: JournalHandler) -> None:
    handler.handle(record("a request failed: %s", "POST", failed=True))
    found = fields(journal.recv(1 << 20))
    lines = found["MESSAGE"].split("\n")
    assert ("ValueError", "a request failed: POST") == (found["EXCEPTION"], lines[0])
    assert any(line.startswith("ValueError: GET /") for line in lines)
    with pytest.raises(BlockingIOError):
        journal.recv(1)


def test_data_from_clients_forges_no_field_and_no_line(journal: socket.socket, handler: JournalHandler) -> None:
    handler.handle(record("from %s", "x\nPRIORITY=0\nMESSAGE=forged\n" + FORGED))
    found = fields(journal.recv(1 << 20))
    assert "3" == found["PRIORITY"]
    assert found["MESSAGE"].isprintable()


def test_entry_of_any_length_is_one_datagram(journal: socket.socket, handler: JournalHandler) -> None:
    handler.handle(record("begin %s end", "\U0001f600" * 10 * MAX_CHARACTERS))
    message = fields(journal.recv(1 << 20))["MESSAGE"]
    assert message.startswith("begin ")
    assert message.endswith(" end")


def test_full_journal_does_not_block_and_lost_entries_are_counted(
    journal: socket.socket, handler: JournalHandler, otherwise: Kept
) -> None:
    sent = 2_000
    for number in range(sent):
        handler.handle(record("%d", number))
    taken = 0
    try:
        while journal.recv(1 << 20):
            taken += 1
    except BlockingIOError:
        pass
    assert 0 < taken < sent
    handler.handle(record("after"))
    assert (
        f"after ({sent - taken} earlier entries were lost: the systemd journal did not accept them)"
        == (fields(journal.recv(1 << 20))["MESSAGE"])
    )
    handler.handle(record("later"))
    assert "later" == fields(journal.recv(1 << 20))["MESSAGE"]
    assert [] == otherwise.records


def test_without_the_journal_socket_records_go_to_the_other_handler(handler: JournalHandler, otherwise: Kept) -> None:
    handler.handle(record("x"))
    assert ["x"] == [kept.getMessage() for kept in otherwise.records]


def test_journal_that_comes_back_is_written_to_again(tmp_path: Path, handler: JournalHandler, otherwise: Kept) -> None:
    handler.handle(record("before"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "socket"))
        handler.handle(record("after"))
        assert "after" == fields(bound.recv(1 << 20))["MESSAGE"]
    assert 1 == len(otherwise.records)


def test_record_that_cannot_be_formatted_does_not_raise(
    journal: socket.socket, handler: JournalHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler.handle(record("%d", "no number"))


def test_record_is_one_line_and_an_indented_traceback() -> None:
    first, *others = Lines(2).format(record("from %s", FORGED, failed=True)).splitlines()
    assert first.endswith(f"[worker 2] collector.x: from {escape(FORGED)}")
    assert "    Traceback (most recent call last):" == others[0]
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_record_with_a_priority_is_one_line_whatever_it_contains() -> None:
    line = PrefixedLines(2).format(record("from %s", FORGED, failed=True))
    assert line.startswith(r"<3>[worker 2] collector.x: from GET /\n2026")
    assert line.isprintable()


def test_line_of_any_length_is_cut() -> None:
    assert len(Lines().format(record("x" * 10 * MAX_CHARACTERS))) < 2 * MAX_CHARACTERS


def test_escaping_keeps_text_of_all_languages() -> None:
    assert "Grüße, 世界 🙂" == escape("Grüße, 世界 🙂")
    assert r"a\nb\x1b\u2028\ud800" == escape("a\nb\x1b\u2028\ud800")


def test_journal_is_recognised_by_device_and_inode() -> None:
    reader, writer = os.pipe()
    try:
        stat = os.fstat(writer)
        assert is_journal(writer, {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
        assert not is_journal(writer, {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"})
        assert not is_journal(writer, {})
    finally:
        os.close(reader)
        os.close(writer)
    assert not is_journal(writer, {"JOURNAL_STREAM": "1:1"})
