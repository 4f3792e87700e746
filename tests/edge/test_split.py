"""Splitting batches: the same events as a JSON parser finds, piece by piece."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.edge import split as module
from collector.edge.split import PIECE_BYTES, Bodies, split
from collector.ingest.schema import InvalidEvent

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


def test_millions_of_tiny_elements_are_given_up_early() -> None:
    """Two million numbers in 4 MiB would take 200 MB, and hold the loop for 60 ms."""
    with pytest.raises(InvalidEvent, match="too many elements that are not events"):
        pieces(b"[%b]" % b",".join([b"1"] * 2_000_000))
    tiny = split(b"[%b]" % b",".join([b"{}"] * 1_000_000))
    assert len(next(tiny)) <= PIECE_BYTES // 3
    blank = split(b"{}" + b"\n" * 4_000_000 + b"{}")
    assert [b"{}"] == next(blank)
