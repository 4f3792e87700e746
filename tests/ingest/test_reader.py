"""The reader: every event it accepts is accepted by the validator too, with the same values."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.sample import bodies
from collector.events import CONTRACT, FIELDS, Kind
from collector.ingest.pipeline import to_values
from collector.ingest.reader import read
from collector.ingest.schema import InvalidEvent, check, parse
from tests.support import NOON_US, event

NAMES = [field.name for field in FIELDS]
ENUMS = sorted({value for rule in CONTRACT["properties"].values() for value in rule.get("enum", ()) if value})

# Values that JSON can hold, including the limits of every rule: lengths, enums, floats, and nearly right types.
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 10**400, 0, 1]),
    st.floats(),
    st.sampled_from([7 * "x", 8 * "x", 64 * "x", 65 * "x", 500 * "x", 501 * "x", 1024 * "x", 1025 * "x", 2049 * "é"]),
    st.sampled_from(ENUMS),
    st.text(),
    st.sampled_from(["2026-05-12T10:00:00Z", "2026-05-12T10:00:60Z", "2026-05-12 10:00:00.1234567+01:00", "now"]),
    st.sampled_from(["0001-01-01T00:00:00Z", "2016-05-28T20:26:40Z", "2026-05-29T20:26:40Z", "9999-12-31T23:59:59Z"]),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.none()),
)
EVENTS = st.dictionaries(st.sampled_from(NAMES), VALUES).map(lambda changes: event(**changes))


def validated(sent: dict[str, Any]) -> list[Any] | None:
    """The values as the validator's path gives them. None if the event is invalid."""
    try:
        check(sent, b"")
        return to_values(sent, NOON_US)
    except InvalidEvent:
        return None


@given(EVENTS)
def test_reader_gives_the_values_of_the_validator_or_none(sent: dict[str, Any]) -> None:
    values = read(sent, NOON_US)
    if values is not None:
        assert repr(validated(sent)) == repr(values)  # unlike `==`, repr distinguishes 1, 1.0 and True


@given(st.sampled_from(NAMES), VALUES)
def test_reader_and_validator_agree_on_a_single_field(name: str, value: object) -> None:
    """They differ only if an integer is not exact as a float64, or if floats add up to infinity."""
    sent = event(**{name: value})
    exact = not isinstance(value, int) or abs(value) <= 2**53
    if exact and value not in (float("inf"), float("-inf")):
        assert repr(validated(sent)) == repr(read(sent, NOON_US))


@pytest.mark.parametrize("missing", CONTRACT["required"])
def test_reader_declines_an_event_without_a_required_field(missing: str) -> None:
    sent = event()
    del sent[missing]
    assert read(sent, NOON_US) is None


@pytest.mark.parametrize(
    "field", [field for field in FIELDS if field.kind is Kind.NUMBER], ids=lambda field: field.name
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400, True, "1"])
def test_reader_declines_a_number_that_no_column_can_hold(field: Any, value: object) -> None:
    assert read(event(**{field.name: value}), NOON_US) is None


def test_infinities_of_both_signs_do_not_cancel_out() -> None:
    assert read(event(lcp=float("inf"), fid=float("-inf")), NOON_US) is None


def test_finite_numbers_with_an_infinite_sum_are_still_valid() -> None:
    sent = event(lcp=1.7e308, fid=1.7e308)
    assert read(sent, NOON_US) is None
    assert validated(sent) is not None


def test_unknown_field_is_left_to_the_validator() -> None:
    assert read(event(mine=1), NOON_US) is None


def test_every_sample_is_read() -> None:
    """Otherwise the fast path would only add a step."""
    assert all(read(parse(body), NOON_US) is not None for body in bodies(200))
