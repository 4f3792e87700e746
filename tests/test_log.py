"""The log: a flood becomes a few lines and a count."""

import logging

import pytest

from collector.log import MAX_ALIKE, MAX_KINDS, PERIOD_S, FloodFilter


def record(message: str, *args: object, at_s: float = 0, name: str = "collector") -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "", 0, message, args, None)
    made.created = 1e9 + at_s
    return made


@pytest.fixture
def flood() -> FloodFilter:
    return FloodFilter()


def test_flood_passes_its_first_lines_and_is_counted_later(flood: FloodFilter) -> None:
    passed = [flood.filter(record("from %s", number)) for number in range(100)]
    assert [True] * MAX_ALIKE + [False] * (100 - MAX_ALIKE) == passed
    later = record("from %s", "x", at_s=PERIOD_S)
    assert flood.filter(later)
    assert f"from x (and {100 - MAX_ALIKE} like it before)" == later.getMessage()
    again = record("from %s", "y", at_s=PERIOD_S + 1)
    assert (True, "from y") == (flood.filter(again), again.getMessage())


def test_flood_holds_back_nothing_else(flood: FloodFilter) -> None:
    for number in range(100):
        flood.filter(record("from %s", number))
    assert flood.filter(record("from %s to you", 1))
    assert flood.filter(record("from %s", 1, name="asyncio"))


def test_texts_of_several_lines_are_alike_by_their_first(flood: FloodFilter) -> None:
    """asyncio writes what it met, then the socket and the rest on lines of their own."""
    passed = [flood.filter(record(f"accept failed\nsocket: {number}")) for number in range(100)]
    assert MAX_ALIKE == sum(passed)


def test_memory_of_kinds_is_bounded(flood: FloodFilter) -> None:
    for number in range(3 * MAX_KINDS):
        assert flood.filter(record(f"kind {number}"))
    assert len(flood._kinds) <= MAX_KINDS
