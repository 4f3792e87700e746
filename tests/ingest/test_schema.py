"""The contract as code: what is accepted, what is refused, and with which message."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.events import COLUMNS, FieldError
from collector.ingest.pipeline import to_row
from collector.ingest.reader import read
from collector.ingest.schema import InvalidEvent, check, check_all, parse
from tests.ingest import oracle
from tests.support import NOON_US, body, event

LONGEST_MESSAGE = 200


def with_text(field: str, value: str) -> bytes:
    """A valid event with one more field, whose value is inserted as raw text."""
    return body()[:-1] + f', "{field}": {value}}}'.encode()


def message(data: bytes) -> str:
    """The error message for an invalid body."""
    with pytest.raises(InvalidEvent) as caught:
        process(data)
    return str(caught.value)


def process(data: bytes) -> dict[str, Any]:
    """Parse and check a body. Returns the values as they will be stored."""
    read = parse(data)
    check(read, data)
    return dict(zip([column.name for column in COLUMNS], to_row(read, NOON_US), strict=True))


def strict_errors(data: bytes) -> list[tuple[str | None, str]]:
    """Every error of a body, as a strict site reports them."""
    with pytest.raises(InvalidEvent) as caught:
        check_all(parse(data), data)
    return [(error.field, error.rule) for error in caught.value.errors]


def errors(**changes: Any) -> list[tuple[str | None, str]]:
    """Every error of an event, as a strict site reports them."""
    changed = {name: value for name, value in event(**changes).items() if value is not ...}
    with pytest.raises(InvalidEvent) as caught:
        check_all(changed, json.dumps(changed).encode())
    return [(error.field, error.rule) for error in caught.value.errors]


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("session_id is required", {"session_id": ...}),
        ("event_time is required", {"event_time": ...}),
        (
            "session_id is required (missing too: visitor_id, event_type, page_path, event_time)",
            dict.fromkeys(event(), ...),
        ),
        ("session_id must be a string", {"session_id": None}),
        ("page_title must be a string", {"page_title": None}),
        ("browser must be a string or null", {"browser": 1}),
        ("lcp must be a number or null", {"lcp": "1"}),
        ("lcp must be a number or null", {"lcp": True}),
        ("lcp must be a number or null", {"lcp": [1]}),
        ("is_exit must be a boolean", {"is_exit": 1}),
        ("is_exit must be a boolean", {"is_exit": None}),
        ("visitor_id must have at least 8 characters", {"visitor_id": "1234567"}),
        ("visitor_id must have at most 64 characters", {"visitor_id": "x" * 65}),
        ("page_path must have at most 1024 characters", {"page_path": "/" * 1025}),
        ("page_url must have at most 2048 characters", {"page_url": "x" * 2049}),
        ("page_title must have at most 500 characters", {"page_title": "x" * 501}),
        ("visitor_id_source must be one of cookie, fingerprint, hybrid", {"visitor_id_source": "x"}),
        ("device_type must be one of desktop, laptop, mobile, tablet, null", {"device_type": "TV"}),
        ("event_type must be one of the 20 values that the contract lists", {"event_type": "page_view"}),
        ("event_type must be a string", {"event_type": None}),
    ],
)
def test_message_names_the_field_and_the_rule(rule: str, changes: dict[str, Any]) -> None:
    changed = {name: value for name, value in event(**changes).items() if value is not ...}
    assert f"Validation error: {rule}" == message(json.dumps(changed).encode())


ALLOWED: list[dict[str, Any]] = [
    {"visitor_id": "x" * 8},
    {"visitor_id": "\U0001f600" * 64},
    {"page_path": ""},
    {"page_path": "é" * 1024},
    {"page_title": "\U0001f600" * 500},
    {"session_id": ""},
    {field.name: None for field in oracle.FIELDS if "null" in field.types},
    *({field.name: value} for field in oracle.FIELDS for value in field.values),
    {"unknown": {"deep": [1, "x", None]}, "Browser": 1, "": 2},
]


@pytest.mark.parametrize("changes", ALLOWED)
def test_everything_the_contract_page_allows_is_valid(changes: dict[str, Any]) -> None:
    changed = event(**changes)
    stored = process(json.dumps(changed).encode())
    kept = {field.name for field in oracle.FIELDS if field.name in changed} - {"event_time"}
    assert {name: changed[name] for name in kept} == {name: stored[name] for name in kept}


MARKERS = st.text("GHJKQXZ0123456789é😀", min_size=10, max_size=20).map("zq9-{}-9qz".format)
FIELD_NAMES = st.sampled_from([field.name for field in oracle.FIELDS])


@given(MARKERS, FIELD_NAMES, st.sampled_from(["value", "long", "nested", "key", "twice"]))
def test_message_is_short_and_never_echoes_the_input(marker: str, field: str, where: str) -> None:
    cases: dict[str, dict[str, Any]] = {
        "value": {field: marker},
        "long": {field: marker * 300},
        "nested": {field: {marker: [marker]}},
        "key": {field: [], marker: {marker: math.inf}},
        "twice": {field: [marker], marker: math.nan},
    }
    sent = cases[where]
    data = json.dumps(event(**sent), ensure_ascii=False).encode()
    try:
        process(data)
    except InvalidEvent as exc:
        texts = [str(exc), *map(str, exc.errors)]
        try:
            check_all(event(**sent), data)
        except InvalidEvent as strict:
            texts += map(str, strict.errors)
        assert not [text for text in texts if marker in text or "zq9" in text]
        assert max(map(len, texts)) < LONGEST_MESSAGE
    else:
        assert oracle.row_of(data, NOON_US) is not None


@given(st.binary(max_size=60))
def test_arbitrary_bytes_get_one_of_our_messages(data: bytes) -> None:
    assert message(data) in {f"Validation error: body is not {what}" for what in ("UTF-8", "one JSON object")} | {
        "Validation error: session_id is required (missing too: visitor_id, event_type, page_path, event_time)",
    }


def test_strict_site_reports_every_error_once() -> None:
    found = errors(
        session_id=..., visitor_id="short", event_type="x", page_path=..., page_title=1, lcp="1", device_type="TV"
    )
    assert sorted(
        [
            ("session_id", "is required"),
            ("page_path", "is required"),
            ("visitor_id", "must have at least 8 characters"),
            ("event_type", "must be one of the 20 values that the contract lists"),
            ("page_title", "must be a string"),
            ("lcp", "must be a number or null"),
            ("device_type", "must be one of desktop, laptop, mobile, tablet, null"),
        ]
    ) == sorted((str(field), rule) for field, rule in found)


@given(st.sets(FIELD_NAMES, min_size=1))
def test_strict_site_reports_every_wrong_field(wrong: set[str]) -> None:
    assert wrong == {field for field, _ in errors(**{name: [] for name in wrong})}


@pytest.mark.parametrize(
    ("rule", "data"),
    [
        ("is not UTF-8", b'{"a": "\xff"}'),
        ("is not UTF-8", b'{"a": "\xc0\xaf"}'),
        ("is not UTF-8", b'{"a": "\xed\xa0\x80"}'),
        ("is not UTF-8", body() + b"\x80"),
        ("is not UTF-8", body(page_title="é").decode().encode("utf-16")),
        *(
            ("is not one JSON object", data)
            for data in (
                b"",
                b" \n",
                b"null",
                b"1",
                b'"event"',
                b"[]",
                b"[" + body() + b"]",
                body()[:-1],
                body() + b"}",
                body() + b" x",
                body() + body(),
                body() + b"\0",
                b"\xef\xbb\xbf\xef\xbb\xbf" + body(),
                body().replace(b'"', b"'"),
                body()[:-1] + b",}",
                with_text("a", "tru"),
                with_text("a", ".5"),
                with_text("a", "+5"),
                with_text("a", "1e"),
                with_text("a", "0x10"),
                with_text("a", r'"\x41"'),
                with_text("a", r'"\ud8"'),
                with_text("a", '"\0"'),
            )
        ),
    ],
)
def test_body_that_is_not_one_json_object_is_invalid(rule: str, data: bytes) -> None:
    assert f"Validation error: body {rule}" == message(data)


def test_byte_order_mark_is_skipped() -> None:
    assert process(body()) == process(b"\xef\xbb\xbf" + body())


NO_NUMBERS = ["NaN", "Infinity", "-Infinity"]
TOO_LARGE = ["1e999", "-1e999", "9" * 400, "1" + "0" * 309, "9" * 5000]
DEEP = '{{"deep": [0, {{"deeper": [{}]}}]}}'


@pytest.mark.parametrize("number", NO_NUMBERS + TOO_LARGE)
@pytest.mark.parametrize(("field", "place"), [("lcp", "{}"), ("lcp", "[{}]"), ("browser", "{}")])
def test_number_beyond_float64_is_invalid_in_a_known_field(field: str, place: str, number: str) -> None:
    said = message(with_text(field, place.format(number)))
    assert said.startswith(f"Validation error: {field} ")
    assert len(said) < LONGEST_MESSAGE


@pytest.mark.parametrize("number", NO_NUMBERS)
@pytest.mark.parametrize("place", ["{}", DEEP])
@pytest.mark.parametrize("more", ["", r', "x": "\\\""', r', "x": "NaN \" Infinity"'])
def test_nan_and_infinities_are_invalid_in_an_unknown_field(place: str, number: str, more: str) -> None:
    data = with_text("unknown", place.format(number) + more)
    assert "Validation error: body holds a number beyond the range of a float64" == message(data)
    assert read(data, NOON_US) is None


@pytest.mark.parametrize(
    "text", [r'"NaN"', r'"Infinity"', r'"\"NaN"', r'"\\", "NaN": 1, "y": ""', '["-Infinity"]', '"\n NaN"']
)
def test_nan_in_a_string_is_text(text: str) -> None:
    assert process(body()) == process(with_text("unknown", text))


@pytest.mark.parametrize("number", TOO_LARGE)
@pytest.mark.parametrize("place", ["{}", DEEP])
def test_number_of_an_unknown_field_is_dropped_whatever_its_size(place: str, number: str) -> None:
    """By the reader, and by the validator if something else, such as a byte order mark, makes the reader decline."""
    data = with_text("unknown", place.format(number))
    assert process(body()) == process(data) == process(b"\xef\xbb\xbf" + data)
    assert read(body(), NOON_US) == read(data, NOON_US)


def test_nan_that_a_later_key_replaces_is_invalid() -> None:
    data = with_text("lcp", 'NaN, "lcp": 1')
    assert "Validation error: body holds" in message(data)
    assert [(None, "holds a number beyond the range of a float64")] == strict_errors(data)


def test_nan_of_a_known_field_is_reported_once() -> None:
    data = with_text("lcp", 'NaN, "unknown": "text"')
    assert [("lcp", "holds a number beyond the range of a float64")] == strict_errors(data)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["\u3939" * 2_151, "9" * 4_301])
def test_body_in_another_encoding_is_invalid(encoding: str, text: str) -> None:
    """The bytes of these texts are all ASCII, or look like a long integer."""
    data = body(page_title=text).decode().encode(encoding)
    assert message(data).startswith("Validation error: body is not ")
    assert read(data, NOON_US) is None


def test_nul_is_invalid_beside_a_long_integer() -> None:
    assert "Validation error: body is not one JSON object" == message(with_text("x", "9" * 5_000 + ', "y": "\0"'))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (1e5, "1E+5"),
        (2.0**53, "9007199254740993"),
        (2.0**53 + 4, "9007199254740995"),
        (2.0**64, "18446744073709551616"),
        (-(2.0**63), "-9223372036854775809"),
        (1e300, "1" + "0" * 300),
        (1.7976931348623157e308, "1.7976931348623157e308"),
        (5e-324, "5e-324"),
        (0.0, "1e-400"),
        (1.0, "0." + "0" * 400 + "1e401"),
        (0.1, "0.1000000000000000055511151231257827021181583404541015625"),
    ],
)
def test_other_numbers_become_the_nearest_float64(value: float, text: str) -> None:
    stored = process(with_text("lcp", text))["lcp"]
    assert (value, float, math.copysign(1, value)) == (stored, type(stored), math.copysign(1, stored))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**1000), 2**1000))
def test_every_number_is_read_as_the_standard_library_reads_it(number: float) -> None:
    assert float(number) == process(with_text("lcp", str(number)))["lcp"]


@pytest.mark.parametrize("field", ["unknown", "lcp"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [100, 900, 1000, 1023, 1024, 1025, 10_000, 100_000])
def test_deep_nesting_never_crashes(depth: int, opening: str, closing: str, field: str) -> None:
    """Nesting that ujson can parse is valid in an unknown field. Anything else is invalid, and nothing else raises."""
    data = with_text(field, opening * depth + "1" + closing * depth)
    if field == "unknown" and depth <= 900:
        assert process(body()) == process(data)
    elif field == "lcp" or depth > 1024:
        assert message(data).startswith("Validation error: ")


def test_last_of_duplicate_keys_wins() -> None:
    assert 2.0 == process(with_text("lcp", '"x", "lcp": 1, "lcp": 2'))["lcp"]
    assert "lcp must be" in message(with_text("lcp", '1, "lcp": "x"'))


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("\ufffd", r"\ud83d"),
        ("\ufffd", r"\ude00"),
        ("cut \ufffd", r"cut \uD83D"),
        ("\ufffd\ufffd", r"\ude00\ud83d"),
        ("\ufffdx\ufffd", r"\ud83dx\ude00"),
        ("\ufffd😀", r"\ud83d\ud83d\ude00"),
        ("😀", r"\ud83d\ude00"),
        ("😀", "😀"),
        ("é\ufffd😀", r"é\udfff😀"),
        ("\0", r"\u0000"),
        ("a\0b", r"a\u0000b"),
        ("\ufffe\uffff", r"\ufffe\uffff"),
        ('"\\/\b\f\n\r\t', r"\"\\\/\b\f\n\r\t"),
        (r"\ud83d", r"\\ud83d"),
    ],
)
@pytest.mark.parametrize("field", ["browser", "page_path"])
def test_text_is_kept_except_lone_surrogates(field: str, text: str, sent: str) -> None:
    assert text == process(with_text(field, f'"{sent}"'))[field]


def test_lone_surrogate_counts_as_one_character() -> None:
    assert "\ufffd" * 8 == process(with_text("visitor_id", '"' + r"\ud83d" * 8 + '"'))["visitor_id"]


def test_surrogate_in_an_unknown_field_or_key_is_dropped_with_it() -> None:
    assert process(body()) == process(with_text(r"\ud83d", r'{"\ud83d": ["\ud83d"]}'))


@pytest.mark.parametrize(
    ("value", "field", "text"),
    [
        (1.0, "lcp", "01"),
        (-1.0, "lcp", "-01"),
        (0.0, "lcp", "00"),
        (5.0, "lcp", "5."),
        (5e3, "lcp", "5.e3"),
        (0.0, "lcp", "-"),
        ("a\nb\tc\x01\x1f\x7f", "browser", '"a\nb\tc\x01\x1f\x7f"'),
    ],
)
def test_documented_leniency_beyond_rfc_8259(value: object, field: str, text: str) -> None:
    """ujson accepts these. If a later version refuses them, move them to the invalid cases and update the docs."""
    assert value == process(with_text(field, text))[field]


def test_error_without_a_field_is_about_the_body() -> None:
    with pytest.raises(InvalidEvent) as caught:
        parse(b"")
    assert (FieldError(None, "is not one JSON object"),) == caught.value.errors
