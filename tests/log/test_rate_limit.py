"""The log's rate limit: a few lines and a count, whatever is logged."""

import logging
from collections.abc import Callable

import pytest

from collector.log.rate_limit import MAX_ALIKE, MAX_KINDS, PERIOD_S, RateLimitFilter


class Limited:
    """A filter with a clock and timers that the test controls."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.said: list[str] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.filter = RateLimitFilter(
            lambda record: self.said.append(record.getMessage()),
            lambda: self.now_s,
            lambda seconds, function: self.timers.append((self.now_s + seconds, function)),
        )

    def log(self, message: str, *args: object, name: str = "collector") -> bool:
        return self.filter.filter(logging.LogRecord(name, logging.WARNING, "", 0, message, args, None))

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        due = [function for at, function in self.timers if at <= self.now_s]
        self.timers = [(at, function) for at, function in self.timers if at > self.now_s]
        for function in due:
            function()


@pytest.fixture
def limited() -> Limited:
    return Limited()


def test_records_that_are_left_out_are_counted_when_their_period_ends(limited: Limited) -> None:
    passed = [limited.log("from %s", number) for number in range(100)]
    assert [True] * MAX_ALIKE + [False] * (100 - MAX_ALIKE) == passed
    assert 1 == len(limited.timers)
    limited.advance(PERIOD_S - 1)
    assert [] == limited.said
    limited.advance(1)
    assert [f"{100 - MAX_ALIKE} more like this in {PERIOD_S:g} s: from 99"] == limited.said
    limited.advance(10 * PERIOD_S)
    assert 1 == len(limited.said)


def test_records_that_keep_coming_are_counted_once_a_period(limited: Limited) -> None:
    passed = 0
    for _ in range(100):
        passed += sum(limited.log("from %s", number) for number in range(30))
        limited.advance(1)
    assert (10 * MAX_ALIKE, 10) == (passed, len(limited.said))


def test_record_that_comes_before_a_late_timer_loses_no_count(limited: Limited) -> None:
    for number in range(100):
        limited.log("from %s", number)
    limited.now_s += PERIOD_S + 1
    limited.log("from %s", 100)
    limited.advance(0)
    assert [f"{101 - MAX_ALIKE} more like this in {PERIOD_S:g} s: from 100"] == limited.said


def test_without_left_out_records_there_is_no_count_and_no_timer(limited: Limited) -> None:
    for _ in range(100):
        assert limited.log("once a second")
        limited.advance(1)
    assert ([], []) == (limited.said, limited.timers)


def test_records_of_other_kinds_pass(limited: Limited) -> None:
    for number in range(100):
        limited.log("from %s", number)
    assert limited.log("from %s to you", 1)
    assert limited.log("from %s", 1, name="asyncio")


@pytest.mark.parametrize(
    "text", ["accept failed\nsocket: {}", "Exception in callback <bound of 0x7f00{}>", "descriptor {} is in use"]
)
def test_records_of_libraries_are_alike_if_their_first_lines_differ_only_in_numbers(
    limited: Limited, text: str
) -> None:
    """asyncio formats the text itself, so an address or a descriptor in it must not make a new kind."""
    passed = [limited.log(text.format(number)) for number in range(100)]
    assert MAX_ALIKE == sum(passed)


def test_number_of_kinds_is_bounded(limited: Limited) -> None:
    """Every text is new, as if clients wrote it. Kinds beyond MAX_KINDS share one limit until the period ends."""
    letters = str.maketrans("0123456789", "abcdefghij")
    passed = [limited.log(f"kind {number}".translate(letters)) for number in range(10 * MAX_KINDS)]
    assert MAX_KINDS + MAX_ALIKE == sum(passed)
    assert not limited.log("yet another kind")
    limited.advance(PERIOD_S)
    assert 1 == len(limited.said)
    assert limited.log("yet another kind")


def test_count_passes_its_own_filter() -> None:
    """The handler that has the filter also handles the count."""
    said: list[str] = []

    def say(record: logging.LogRecord) -> None:
        assert held.filter(record)
        said.append(record.getMessage())

    held = RateLimitFilter(say, later=lambda seconds, function: None)
    for _ in range(2 * MAX_ALIKE):
        held.filter(logging.LogRecord("collector", logging.ERROR, "", 0, "again", None, None))
    held.report()
    assert [f"{MAX_ALIKE} more like this in {PERIOD_S:g} s: again"] == said
