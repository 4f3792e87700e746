"""The reader: every event it accepts is accepted by the validator too, with the same values."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.sample import bodies
from collector.events import CONTRACT, FIELDS, Kind
from collector.ingest.pipeline import to_row
from collector.ingest.reader import read
from collector.ingest.schema import InvalidEvent, check, parse
from tests.crash.conftest import times
from tests.ingest import oracle
from tests.ingest.test_hostile import bodies as hostile_bodies
from tests.support import NOON_US, body, event

NAMES = [field.name for field in FIELDS]
ENUMS = sorted({value for rule in CONTRACT["properties"].values() for value in rule.get("enum", ()) if value})

# Values that JSON can hold, including the limits of every rule: lengths, enums, floats, and nearly right types.
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**64, 10**400, 0, 1]),
    st.floats(),
    st.sampled_from([7 * "x", 8 * "x", 64 * "x", 65 * "x", 500 * "x", 501 * "x", 1024 * "x", 1025 * "x", 2049 * "é"]),
    st.sampled_from([8 * "😀", 64 * "😀", 65 * "😀", "😀" * 500, "e\u0301" * 33]),
    st.sampled_from(ENUMS),
    st.text(),
    st.sampled_from(["2026-05-12T10:00:00Z", "2026-05-12T10:00:60Z", "2026-05-12 10:00:00.1234567+01:00", "now"]),
    st.sampled_from(["0001-01-01T00:00:00Z", "2016-05-28T20:26:40Z", "2026-05-29T20:26:40Z", "9999-12-31T23:59:59Z"]),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.none()),
)
EVENTS = st.dictionaries(st.sampled_from([*NAMES, "unknown", "é"]), VALUES).map(lambda changes: event(**changes))


def validated(data: bytes) -> list[Any] | None:
    """The values as the validator's path gives them. None if the event is invalid."""
    try:
        sent = parse(data)
        check(sent, data)
        return to_row(sent, NOON_US)
    except InvalidEvent:
        return None


@given(EVENTS, st.booleans())
def test_reader_gives_the_values_of_the_validator_or_none(sent: dict[str, Any], ensure_ascii: bool) -> None:
    data = json.dumps(sent, ensure_ascii=ensure_ascii).encode("utf-8", "surrogatepass")
    values = read(data, NOON_US)
    if values is not None:
        assert repr(validated(data)) == repr(values)  # unlike `==`, repr distinguishes 1, 1.0 and True


@settings(max_examples=times(300, 1_000))
@given(hostile_bodies())
def test_values_of_a_hostile_body_are_those_of_the_validator_and_of_the_oracle(data: bytes) -> None:
    values = read(data, NOON_US)
    if values is not None:
        assert repr(validated(data)) == repr(values)
        expected = oracle.row_of(data, NOON_US)
        assert expected is not None
        moment = expected["event_time"]
        expected["event_time"] = moment and (moment - oracle.EPOCH) // timedelta(microseconds=1)
        assert expected == dict(zip([*NAMES, "event_time_raw"], values[2:-3], strict=True))


@given(st.sampled_from(NAMES), VALUES)
def test_reader_and_validator_agree_on_a_single_field(name: str, value: object) -> None:
    """They differ only if a text has a lone surrogate, which the reader leaves to the validator."""
    if not (isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value)):
        data = json.dumps(event(**{name: value})).encode()
        assert repr(validated(data)) == repr(read(data, NOON_US))


@pytest.mark.parametrize("missing", CONTRACT["required"])
def test_reader_declines_an_event_without_a_required_field(missing: str) -> None:
    sent = event()
    del sent[missing]
    assert read(json.dumps(sent).encode(), NOON_US) is None


@pytest.mark.parametrize("name", [name for name, rule in CONTRACT["properties"].items() if "null" not in rule["type"]])
def test_reader_declines_null_where_the_contract_has_no_null(name: str) -> None:
    assert read(body(**{name: None}), NOON_US) is None


@pytest.mark.parametrize(
    "field", [field for field in FIELDS if field.kind is Kind.NUMBER], ids=lambda field: field.name
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400, True, "1"])
def test_reader_declines_a_number_that_no_column_can_hold(field: Any, value: object) -> None:
    assert read(body(**{field.name: value}), NOON_US) is None


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf"])
@pytest.mark.parametrize("where", [b'"x": "%b"', b'"%b": 1', b'"x": {"%b": []}', b'"browser": "%b"'])
def test_reader_declines_bytes_that_are_not_utf_8_wherever_they_are(name: bytes, where: bytes) -> None:
    data = body()[:-1] + b", " + where % name + b"}"
    assert (None, None) == (read(data, NOON_US), validated(data))


def test_unknown_fields_are_dropped() -> None:
    sent = body()[:-1] + ', "é": {"lcp": [1e999, "\\"}"]}, "x": "lcp", "y": null}'.encode()
    assert read(body(), NOON_US) == read(sent, NOON_US)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_left_to_the_validator(opening: str, closing: str) -> None:
    """Otherwise the depth of the stack would decide what is accepted, and a replay could differ."""
    deep = [body()[:-1] + f', "x": {opening * n}1{closing * n}}}'.encode() for n in (100, 250)]
    assert [read(body(), NOON_US), None] == [read(data, NOON_US) for data in deep]


def test_every_sample_is_read() -> None:
    """Otherwise the fast path would only add a step."""
    assert all(read(data, NOON_US) is not None for data in bodies(200))
