"""Splitting batches: the same events as a JSON parser finds, piece by piece."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.edge import split as module
from collector.edge.split import PIECE_BYTES, PIECE_ELEMENTS, Bodies, split
from collector.ingest.schema import UTF8_BOM, InvalidEvent

TRICKY = st.text(st.sampled_from('},{ "\\[]:\n\t1aé'), max_size=12)
VALUES = st.recursive(
    st.none() | st.integers() | TRICKY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TRICKY, inner, max_size=3),
    max_leaves=8,
)
FORMS: list[Callable[[list[Any]], bytes]] = [
    lambda events: json.dumps(events).encode(),
    lambda events: json.dumps(events, indent=1, ensure_ascii=False).encode(),
    lambda events: json.dumps(events, separators=(",", ":")).encode(),
    lambda events: b"\n".join(json.dumps(event).encode() for event in events),
    lambda events: b"\r\n \r\n".join(json.dumps(event, ensure_ascii=False).encode() for event in events),
]


def events(batch: bytes) -> list[Any]:
    return [json.loads(bytes(body)) for piece in split(batch) for body in piece]


def pieces(batch: bytes) -> list[Bodies]:
    return list(split(batch))


@pytest.fixture(params=[PIECE_BYTES, 7, 40])
def piece_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces too, so that few events make many."""
    monkeypatch.setattr(module, "PIECE_BYTES", request.param)


@pytest.mark.usefixtures("piece_bytes")
@given(sent=st.lists(st.dictionaries(TRICKY, VALUES, max_size=4) | VALUES, min_size=1, max_size=30))
@settings(deadline=None)
def test_any_events_are_split_as_a_json_parser_does(sent: list[Any]) -> None:
    for form in FORMS:
        batch = form(sent)
        if not batch.startswith(b"[") or form in FORMS[:3]:  # a line that begins with a list makes the batch an array
            assert sent == events(batch)


@pytest.mark.usefixtures("piece_bytes")
@given(sent=st.lists(st.dictionaries(TRICKY, VALUES, max_size=4), min_size=1, max_size=12), data=st.data())
@settings(deadline=None)
def test_broken_array_is_always_found(sent: list[Any], data: st.DataObject) -> None:
    """Wherever a byte is missing or added: what a JSON parser refuses is refused."""
    batch = json.dumps(sent).encode()
    at = data.draw(st.integers(1, len(batch) - 1))
    added = data.draw(st.sampled_from([b"", b"}", b",", b"[", b'"', b"]"]))
    broken = batch[:at] + added + batch[at + (not added) :]
    try:
        expected = json.loads(broken)
    except ValueError:
        with pytest.raises(InvalidEvent):
            pieces(broken)
    else:
        assert expected == events(broken)


def test_usual_batch_comes_in_many_pieces() -> None:
    event = {"page_title": "},{", "list": [{}, {"a": [1]}], "text": "x" * 200}
    for form in FORMS:
        found = pieces(form([event] * 2_000))
        assert 2_000 == sum(map(len, found))
        assert max(map(len, found)) <= PIECE_BYTES // 200


def test_event_larger_than_a_piece_is_one() -> None:
    sent = [{"a": 1}, {"text": "},{" * PIECE_BYTES}, {"b": 2}]
    for form in FORMS:
        assert sent == events(form(sent))


def test_fault_is_told_with_its_place() -> None:
    """Counted in the whole batch, not in its piece."""
    batch = b"[" + b",".join([b'{"a": 1}'] * 10_000)
    with pytest.raises(InvalidEvent, match=f"it is broken at byte {len(batch) + 1}$"):
        pieces(batch + b" x]")


def test_millions_of_tiny_elements_come_in_small_pieces() -> None:
    """So a batch of two million numbers, which would take 200 MB, is given up after the first of them."""
    for element in (b"1", b"{}", b'""'):
        tiny = split(b"[%b]" % b",".join([element] * 1_000_000))
        assert [element] * PIECE_ELEMENTS == next(tiny)
    blank = split(b"{}" + b"\n" * 4_000_000 + b"{}")
    assert [b"{}"] == next(blank)


@pytest.mark.parametrize(
    "event",
    [
        b'{"list": [%b]}' % b",".join([b"{}"] * 15_000),
        b'{"text": "%b"}' % (b"},{" * 15_000),
        b'{"text": "%b"}' % (b"\\n},{" * 9_000),
        b'{"a": %b}' % (b"[{},[" * 100 + b"{}" + b"],{}]" * 100),
    ],
    ids=["objects", "string", "escapes", "nested"],
)
def test_events_that_are_full_of_seeming_ends_are_split_like_any(event: bytes) -> None:
    """4 MiB of them, each small enough to be stored. Every byte is looked at once."""
    sent = [event] * (4_000_000 // len(event))
    found = pieces(b"[%b]" % b",".join(sent))
    assert sent == [body for piece in found for body in piece]
    assert max(sum(map(len, piece)) for piece in found) <= PIECE_BYTES + len(event)


def test_large_array_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop would be held for half a second if parts were decoded again and again in search of an end."""
    read_bytes = 0
    decode = module._decode

    def counting(view: memoryview) -> object:
        nonlocal read_bytes
        try:
            return decode(view)
        except msgspec.DecodeError as exc:
            followed = re.search(r"trailing characters \(byte (\d+)", str(exc))
            read_bytes += int(followed[1]) if followed else len(view)
            raise

    monkeypatch.setattr(module, "_decode", counting)
    batch = b'[{"a":[%b]}]' % b",".join([b"{}"] * 1_300_000)
    assert 1 == len(events(batch))
    assert read_bytes <= len(batch)


def test_blank_array_has_no_events() -> None:
    for batch in (b"[]", b" [ \r\n\t ] ", UTF8_BOM + b"[]"):
        assert [] == pieces(batch)


@pytest.mark.parametrize("batch", [b"[", b"[,]", b"[{},]", b"[,{}]", b"[{}", b"[{}}", b"[{}]]", b"[{} {}]", b"[{}],{}"])
def test_almost_an_array_is_none(batch: bytes) -> None:
    with pytest.raises(InvalidEvent, match="is not a JSON array"):
        pieces(batch)


DEEP = {
    "lists": "[" * 3_000 + "]" * 3_000,
    "objects": '{"a":' * 3_000 + r'"]}\","' + "}" * 3_000,
    "strings": "[ " * 3_000 + r'"\\", "\"[{"' + "]" * 3_000,
}


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP)
def test_element_that_nests_too_deeply_costs_no_other(deep: str) -> None:
    """It is none that a parser could read, but where it ends is known."""
    found = [bytes(body) for piece in split(f'[{{"a": 1}}, {deep} \n, {{"b": 2}}]'.encode()) for body in piece]
    assert [b'{"a": 1}', deep.encode(), b'{"b": 2}'] == found
    assert [deep.encode()] == [body for piece in split(f"[{deep}]".encode()) for body in piece]


@pytest.mark.parametrize(
    "broken", ["[" * 3_000 + "]" * 2_999, "[" * 3_000, "[" * 3_000 + '"' + "]" * 3_000, "[" * 40_000 + "]" * 40_000]
)
def test_deep_element_without_an_end_is_no_array(broken: str) -> None:
    """An element that is larger than an event may be is given up."""
    with pytest.raises(InvalidEvent, match="is not a JSON array"):
        pieces(f"[{broken}, 1".encode())
