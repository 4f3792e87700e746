"""Framing: whatever aiohttp's parser takes is followed to the byte, however it is cut."""

import asyncio
from collections.abc import Sequence

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import given
from hypothesis import strategies as st

from collector.edge.framing import MAX_FRAME_BYTES, Framed, Framing
from tests.edge.wire import chunk, head, request

CHUNKED = b"Transfer-Encoding: chunked"
LAST = chunk(b"")


@pytest.fixture(autouse=True)
def way() -> str:
    """No collector runs here."""
    return "none"


Followed = list[tuple[bytes, bool]]
"""The heads of requests, and whether what is behind each must not be read."""


def follow(*pieces: bytes, framing: Framing | None = None) -> tuple[Followed, bytes]:
    """The requests, as a parser takes them one after the other, and what it was given of them."""
    framing = framing or Framing()
    found: list[tuple[bytes, Framed]] = []
    given = b""
    for piece in pieces:
        given += framing.feed(piece)
        while True:
            if taken := framing.take():
                assert framing.taken is not None
                found.append((taken, framing.taken))
            if not framing.is_whole:
                break
            framing.free()
            given += framing.feed(b"")
    return [(taken, framed.closes) for taken, framed in found], given


# A whole request, and whether its connection may not go on.
REQUESTS: dict[str, tuple[bytes, bytes, bool]] = {
    "no body": (head(method="GET"), b"", False),
    "no length": (head(b"X: y"), b"", False),
    "length": (head(b"Content-Length: 5"), b"hello", False),
    "length of a GET": (head(b"content-length:5\t", method="GET"), b"GET /", False),
    "length with zeros": (head(b"Content-Length: " + b"0" * 30 + b"5"), b"hello", False),
    "length of nothing": (head(b"Content-Length: 0"), b"", False),
    "body like a head": (head(b"Content-Length: 9"), b"\r\n\r\nGET /", False),
    "chunks": (head(CHUNKED), chunk(b"hello") + chunk(b"\r\n\r\n0\r\n\r\n") + LAST, False),
    "no chunk": (head(CHUNKED), LAST, False),
    "extensions": (head(b"transfer-encoding:\tChunked"), b'5;a;b="\t;c"\r\nhello\r\n000\r\n\r\n', False),
    "trailer": (head(CHUNKED), chunk(b"hello") + b"0\r\nX: y\r\n\r\n", True),
    "trailers": (head(CHUNKED), b"0\r\nX: y\r\nOrigin: http://localhost\r\n\r\n", True),
    "encoded": (head(b"Transfer-Encoding: gzip, chunked"), chunk(b"hello") + LAST, False),
    "HTTP/1.0": (head(b"Connection: keep-alive", version="1.0"), b"", False),
}
ALL = st.lists(st.sampled_from(list(REQUESTS.values())), min_size=1, max_size=5)


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


@given(ALL, st.lists(st.integers(min_value=0), max_size=6), st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]))
def test_requests_are_followed_however_they_are_cut(
    requests: list[tuple[bytes, bytes, bool]], cuts: list[int], blank: bytes
) -> None:
    data = b"".join(blank + head + body for head, body, _ in requests)
    framing = Framing()
    expected = [(head, closes) for head, _, closes in requests]
    assert (expected, data) == follow(*pieces_of(data, cuts), framing=framing)
    framing.feed(b"GET /")
    assert b"GET /" == framing.head


@given(ALL, st.lists(st.integers(min_value=0), max_size=6))
def test_parser_is_given_one_request_at_a_time(requests: list[tuple[bytes, bytes, bool]], cuts: list[int]) -> None:
    """The next only when it has room for that."""
    framing = Framing()
    given = b"".join(framing.feed(piece) for piece in pieces_of(b"".join(h + b for h, b, _ in requests), cuts))
    for first, body, _ in requests:
        assert first + body == given
        assert framing.take() == first
        framing.free()
        given = framing.feed(b"")
    assert b"" == given


@pytest.mark.parametrize(("first", "body", "closes"), REQUESTS.values(), ids=REQUESTS)
def test_requests_are_followed_byte_by_byte(first: bytes, body: bytes, closes: bool) -> None:
    data = 2 * (first + body)
    assert (2 * [(first, closes)], data) == follow(*(data[at : at + 1] for at in range(len(data))))


def messages(data: bytes) -> int | None:
    """How many messages aiohttp's parser makes of it; None where it refuses."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 20, auto_decompress=False)
        return len(parser.feed_data(data)[0])
    except HttpProcessingError:
        return None
    finally:
        loop.close()


FRAMES = st.sampled_from(
    [b"0", b"1", b"5", b"a", b";", b";x", b"\r\n", b"\n", b"\r", b" ", b"hello", b"X: y", b"GET / HTTP/1.1", b"Host: a"]
)


@given(st.lists(FRAMES, max_size=12).map(b"".join), st.sampled_from([CHUNKED, b"Content-Length: 5", b"X: y"]))
def test_what_the_parser_takes_is_counted_alike(body: bytes, line: bytes) -> None:
    """But behind trailers, where nothing is read any more."""
    data = head(line) + body
    found = messages(data)
    heads, _ = follow(data)
    if found is not None and not any(closes for _, closes in heads):
        assert found == len(heads)


@pytest.mark.parametrize("ended", [True, False])
def test_head_that_has_begun_is_told(ended: bool) -> None:
    begun = head(b"X: y") if ended else head(b"X: y")[:-2]
    framing = Framing()
    follow(request(b"hello"), b"\r\n", begun[:9], framing=framing)
    framing.feed(begun[9:])
    assert begun == framing.head
    framing = Framing()
    follow(head(CHUNKED), b"5\r\nhel", framing=framing)
    assert b"" == framing.head


@pytest.mark.parametrize(
    "first",
    [
        head(b"Connection: Upgrade", b"upgrade:\tWebSocket "),
        head(method="CONNECT", target="a:1"),
        head(CHUNKED) + b"no size\r\n",
        head(CHUNKED) + b"5\nhello",
    ],
)
def test_what_cannot_be_followed_is_followed_again_from_a_known_border(first: bytes) -> None:
    framing = Framing()
    followed, given = follow(first + head(b"X: y"), framing=framing)
    assert (1, first + head(b"X: y")) == (len(followed), given)
    assert b"" == framing.head
    framing.restart()
    framing.feed(head(b"X: y"))
    assert head(b"X: y") == framing.head


@pytest.mark.parametrize(
    "line",
    [
        b"1;" + b"x" * (MAX_FRAME_BYTES - 2),
        b"0\r\nX: " + b"y" * (MAX_FRAME_BYTES - 3),
        b"0\r\n" + MAX_FRAME_BYTES // 4 * b"X:\r\n",
    ],
    ids=["extension", "trailer", "trailers"],
)
@pytest.mark.parametrize("step", [1 << 20, 1_000])
def test_lines_around_a_body_are_bounded(line: bytes, step: int) -> None:
    data = head(CHUNKED) + line
    pieces = pieces_of(data, range(0, len(data), step))
    for more, endless in ((b"", False), (b"x", True)):
        framing = Framing()
        assert [endless] == [closes for _, closes in follow(*pieces, more, framing=framing)[0]]
        assert endless == framing.is_endless


def test_length_that_nobody_could_send_is_no_fault_of_ours() -> None:
    """Python makes no number of more than 4,300 digits; the parser refuses it."""
    assert 1 == len(follow(head(b"Content-Length: " + b"9" * 5_000))[0])
