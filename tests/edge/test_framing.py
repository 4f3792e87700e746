"""Framing: it finds the exact end of every request that aiohttp's parser accepts, however it is cut."""

import asyncio
from collections.abc import Sequence

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from hypothesis import given
from hypothesis import strategies as st

from collector.edge.framing import MAX_FRAME_BYTES, Framing
from tests.edge.wire import chunk, head

CHUNKED = b"Transfer-Encoding: chunked"
LAST = chunk(b"")


# A head, its body, and whether the connection must close after it.
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
    "upgrade": (head(b"Connection: Upgrade", b"Upgrade: websocket"), b"", False),
    "CONNECT": (head(method="CONNECT", target="a:1"), b"", True),
}


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


def follow(first: bytes, pieces: Sequence[bytes]) -> tuple[Framing, bytes]:
    """The framing of a request whose head is `first`, and the bytes of the pieces that belong to its body."""
    framing = Framing(first)
    body = b""
    for piece in pieces:
        end = framing.follow(piece, 0)
        body += piece[:end]
        if end < len(piece):
            assert framing.is_whole
            break
    return framing, body


@given(st.sampled_from(list(REQUESTS.values())), st.lists(st.integers(min_value=0), max_size=6))
def test_end_of_a_request_is_found_however_it_is_cut(request: tuple[bytes, bytes, bool], cuts: list[int]) -> None:
    first, body, closes = request
    framing, taken = follow(first, pieces_of(body + b"GET / HTTP/1.1", cuts))
    assert (body, True, closes, False) == (taken, framing.is_whole, framing.closes, framing.is_broken)


@pytest.mark.parametrize(("first", "body", "closes"), REQUESTS.values(), ids=REQUESTS)
def test_end_of_a_request_is_found_byte_by_byte(first: bytes, body: bytes, closes: bool) -> None:
    framing, taken = follow(first, [bytes([byte]) for byte in body])
    assert (body, True, closes) == (taken, framing.is_whole, framing.closes)


@pytest.mark.parametrize(("first", "body", "closes"), REQUESTS.values(), ids=REQUESTS)
def test_request_is_complete_at_its_last_byte_and_not_before(first: bytes, body: bytes, closes: bool) -> None:
    if body:
        assert not follow(first, [body[:-1]])[0].is_whole
    assert follow(first, [body])[0].is_whole


def test_head_before_the_body_is_skipped() -> None:
    sent = head(b"Content-Length: 5")
    framing = Framing(sent)
    assert len(sent) + 5 == framing.follow(sent + b"hello" + sent, len(sent))
    assert framing.is_whole


def parsed_messages(data: bytes) -> int | None:
    """How many complete messages aiohttp's parser finds: 0 if the body continues, None if it refuses."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 1 << 20, auto_decompress=False)
        messages = parser.feed_data(data)[0]
        return sum(payload.is_eof() for _, payload in messages)
    except HttpProcessingError:
        return None
    finally:
        loop.close()


FRAMES = st.sampled_from(
    [b"0", b"1", b"5", b"a", b";", b";x", b"\r\n", b"\n", b"\r", b" ", b"hello", b"X: y", b"GET / HTTP/1.1", b"Host: a"]
)


@given(st.lists(FRAMES, max_size=12).map(b"".join), st.sampled_from([CHUNKED, b"Content-Length: 5", b"X: y"]))
def test_framing_and_parser_agree_where_a_body_ends(body: bytes, line: bytes) -> None:
    """Or that the body continues."""
    first = head(line)
    framing, taken = follow(first, [body])
    if framing.is_whole:
        assert 1 == parsed_messages(first + taken)
    elif not framing.is_broken:
        assert parsed_messages(first + body) in (0, None)  # the parser may refuse a line before its end


BROKEN = [
    b"no size\r\n",
    b"5\nhello",
    b"z\r\n",
    b"5 \r\nhello",
    b"\r\n",
    b"5\r\nhelloworld\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5;\r\nhello",
    b"5;a=\r\nhello",
    b'5;a="\rb"\r\nhello',
    b"0\r\nfoo\r\n\r\n",
    b"0\r\n folded\r\n\r\n",
    b"0\r\nX: a\n\r\n",
    b"0\r\nX: a\x0b\r\n\r\n",
    b"0\r\nX : a\r\n\r\n",
    b"0\r\ncontent-length: 1\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"0\r\n\n",
]


@pytest.mark.parametrize("body", BROKEN)
@pytest.mark.parametrize("step", [1 << 20, 1])
def test_nothing_behind_a_broken_chunk_is_another_request(body: bytes, step: int) -> None:
    framing = Framing(head(CHUNKED))
    for piece in pieces_of(body, range(0, len(body), step)):
        assert len(piece) == framing.follow(piece, 0)
    assert (True, True, False) == (framing.is_broken, framing.closes, framing.is_whole)


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
def test_chunk_lines_and_trailers_are_bounded(line: bytes, step: int) -> None:
    pieces = pieces_of(line, range(0, len(line), step))
    for more, is_broken in ((b"", False), (b"x", True)):
        assert is_broken == follow(head(CHUNKED), [*pieces, more])[0].is_broken


def test_absurd_length_raises_nothing() -> None:
    """Python converts no number of more than 4,300 digits. aiohttp's parser refuses the request."""
    assert Framing(head(b"Content-Length: " + b"9" * 5_000)).is_whole
