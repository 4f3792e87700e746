"""Where the lines of a file are cut into batches."""

from collections.abc import Iterator

import pytest

from collector.cli.importing.batches import Batch, Limits, NotStored, batches, body_of, is_array, key_of
from collector.cli.importing.source import Unreadable
from collector.cli.ndjson import Line


def lines(*bodies: bytes) -> list[Line]:
    return [Line(number, body) for number, body in enumerate(bodies, 1)]


def cut(given: list[Line], limits: Limits) -> list[list[int]]:
    """The numbers of the lines of each batch."""
    return [[line.number for line in batch.lines] for batch in batches(given, limits)]


def test_default_batch_is_within_the_limits_of_the_collector() -> None:
    assert (10_000, True) == (Limits().events, Limits().size_bytes < 4 * 1024 * 1024)


def test_batch_ends_before_the_event_that_would_be_too_many() -> None:
    assert [[1, 2], [3, 4], [5]] == cut(lines(*[b"{}"] * 5), Limits(2, 1_000))
    assert [[1, 2]] == cut(lines(b"{}", b"{}"), Limits(2, 1_000))


def test_batch_ends_before_the_byte_that_would_be_too_many() -> None:
    """Each line has an end of one byte."""
    limits = Limits(100, 10)
    assert [[1, 2], [3]] == cut(lines(b"1234", b"5678", b"9"), limits)
    assert [[1], [2, 3]] == cut(lines(b"12345", b"6789", b"0"), limits)
    assert [[1], [2]] == cut(lines(b"123456789", b"0"), limits)
    assert all(len(body_of(batch.lines)) <= 10 for batch in batches(lines(b"1234", b"5678", b"9"), limits))


def test_batch_says_where_it_begins_and_where_the_file_goes_on() -> None:
    given = [Line(3, b"[1]"), Line(5, b"{}"), Line(9, b"x" * 10), Line(12, b"{}")]
    why = "invalid: line is not one JSON object"
    large = "too_large: line is longer than 9 bytes, the most that a batch can have"
    assert [
        Batch(3, 10, (Line(5, b"{}"),), (NotStored(3, why), NotStored(9, large))),
        Batch(12, 13, (Line(12, b"{}"),), ()),
    ] == list(batches(given, Limits(3, 10)))


def test_lines_before_an_unreadable_one_are_a_batch() -> None:
    def broken() -> Iterator[Line]:
        yield from lines(b"{}", b"{}", b"{}")
        raise Unreadable("broken")

    found: list[int] = []
    with pytest.raises(Unreadable):
        found.extend(len(batch.lines) for batch in batches(broken(), Limits(2, 100)))
    assert [2, 1] == found


def test_line_that_a_collector_would_not_count_is_not_sent() -> None:
    """Files that were joined have a byte order mark in the middle. The collector drops that of a batch."""
    (batch,) = batches(lines(b"{}", b"\xef\xbb\xbf", b"\xef\xbb\xbf{}", b"\xef\xbb\xbf \t"), Limits())
    assert [1, 3] == [line.number for line in batch.lines]
    assert [2, 4] == [number for number, _ in batch.not_sent]


@pytest.mark.parametrize("limits", [Limits(3, 1_000), Limits(100, 50)])
def test_batches_from_the_start_of_any_batch_are_the_same(limits: Limits) -> None:
    given = lines(*(b"x" * (number * 7 % 23) for number in range(1, 60)))
    whole = list(batches(given, limits))
    for index, batch in enumerate(whole):
        assert whole[index:] == list(batches([line for line in given if line.number >= batch.first], limits))


def test_key_depends_on_site_place_and_content() -> None:
    def key(site: str, number: int, body: bytes) -> str:
        return key_of(site, [Line(number, body)], body)

    keys = {key("a", 1, b"x"), key("b", 1, b"x"), key("a", 2, b"x"), key("a", 1, b"y"), key("a", 12, b"x")}
    assert 5 == len(keys)
    assert key("a", 1, b"x") == key("a", 1, b"x")
    assert {32} == set(map(len, keys))


@pytest.mark.parametrize(
    ("body", "expected"), [(b"[", True), (b"\xef\xbb\xbf\t [1]", True), (b"{}", False), (b"", False)]
)
def test_array_begins_with_a_bracket(body: bytes, expected: bool) -> None:
    assert expected == is_array(body)
