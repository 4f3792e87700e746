"""Splitting a batch into its events, without parsing them: the elements of a JSON array, or lines.

A batch is split piece by piece, so that other requests get their turns in between, and a batch of two million tiny
elements is given up early. No byte of an array is read twice, whatever it holds: the decoder is asked for one element,
and its complaint about what follows tells where that element ends. This takes 1.5 us an element.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from collector.events import FieldError
from collector.ingest.schema import UTF8_BOM, InvalidEvent

Bodies = list[bytes]
"""Events as they were sent."""

PIECE_BYTES: Final = 32_768  # takes 0.03 ms with usual events, and 1 ms with blank lines
PIECE_ELEMENTS: Final = 100
DEEP_BYTES: Final = 65_536  # 65,536 brackets take 6 ms; by default, an event may not be larger

_FOLLOWED: Final = re.compile(r"trailing characters \(byte ([0-9]+)\)")
_BROKEN_AT: Final = re.compile(r"\(byte ([0-9]+)\)")
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|(")|[\[\]{}]', re.DOTALL)
_EMPTY: Final = re.compile(rb"\[[ \t\r\n]*+\]")
_COMMA, _END = b",]"
_BLANKS: Final = b" \t\r\n"  # of JSON, and fewer than `strip` takes by default

_decode: Final[Callable[[memoryview], object]] = msgspec.json.Decoder(msgspec.Raw).decode


def split(batch: bytes) -> Iterator[Bodies]:
    """Yield the events of a batch, in pieces. Lines that are blank are none.

    Raises InvalidEvent if the batch begins as an array but is not one. The events before the fault may be yielded then.
    """
    batch = batch.removeprefix(UTF8_BOM).strip(_BLANKS)
    return _elements(batch) if batch.startswith(b"[") else _lines(batch)


def _lines(batch: bytes) -> Iterator[Bodies]:
    at = 0
    while at < len(batch):
        end = batch.rfind(b"\n", at, at + PIECE_BYTES)
        if end < 0:
            end = batch.find(b"\n", at)
        if end < 0:
            end = len(batch)
        yield [body for line in batch[at:end].split(b"\n") if (body := line.strip(_BLANKS))]
        at = end + 1


def _elements(batch: bytes) -> Iterator[Bodies]:
    if _EMPTY.fullmatch(batch):
        return
    view = memoryview(batch)
    piece: Bodies = []
    begun = at = len(b"[")
    while True:
        end = _end_of_element(view, at)
        piece.append(batch[at:end].strip(_BLANKS))
        at = end + 1
        if batch[end] != _COMMA:
            break
        if len(piece) == PIECE_ELEMENTS or at - begun >= PIECE_BYTES:
            yield piece
            piece, begun = [], at
    if batch[end] != _END or at < len(batch):
        raise _not_an_array(end if batch[end] != _END else at)
    yield piece


def _end_of_element(view: memoryview, at: int) -> int:
    """Where the element that begins at `at` has ended, and something else follows. Raises InvalidEvent."""
    try:
        _decode(view[at:])
    except RecursionError:
        return _end_by_brackets(view, at)
    except msgspec.DecodeError as exc:
        followed = _FOLLOWED.search(str(exc))
        if followed:
            return at + int(followed[1]) - 1  # the decoder has read one byte more
        fault = _BROKEN_AT.search(str(exc))
        raise _not_an_array(at + int(fault[1]) if fault else None) from None
    raise _not_an_array(None)  # nothing follows


def _end_by_brackets(view: memoryview, at: int) -> int:
    """The same for an element that nests deeper than the decoder can read, some 1,000 levels.

    It is no event, but costs no other. What it holds is not checked here: its event is judged invalid. Raises
    InvalidEvent if it has more than DEEP_BYTES.
    """
    depth = 0
    for token in _BRACKETS.finditer(view, at, at + DEEP_BYTES):
        match view[token.start()]:
            case 0x5B | 0x7B:  # [ {
                depth += 1
            case 0x5D | 0x7D:  # ] }
                depth -= 1
            case _ if token[1]:  # a quote whose string has no end here
                break
        if not depth:
            end = token.end()
            while end < len(view) and view[end] in _BLANKS:
                end += 1
            if end < len(view):
                return end
            break
    raise _not_an_array(None)


def _not_an_array(fault: int | None) -> InvalidEvent:
    where = "" if fault is None else f"; it is broken at byte {fault}"
    return InvalidEvent(FieldError(None, f"is not a JSON array{where}"))
