"""Mutations: changes to the bytes of a request, as broken clients, broken proxies and attackers make them."""

from collections.abc import Callable
from random import Random

_LINES = (
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: -1",
    b"Content-Length: +5",
    b"Content-Length: 0x10",
    b"Content-Length: 5, 5",
    b"Content-Length: 5_0",
    b"Content-Length: \xd9\xa5",
    b"Content-Length:",
    b"Content-Length : 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding : chunked",
    b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"Connection: close, keep-alive",
    b"Connection: \xff",
    b"Proxy-Connection: close",
    b"Expect: 100-continue",
    b"Expect: a miracle",
    b"Content-Encoding: deflate",
    b"Content-Encoding: gzip\r\nContent-Encoding: identity",
    b"Content-Encoding: gzip",
    b"Content-Encoding: gzip, gzip",
    b"Content-Encoding: \xff",
    b"Authorization: Bearer wrong",
    b"Authorization: Bearer ck_of-a-sender",
    b"Authorization: Bearer ck_of-a-sender\r\nAuthorization: Bearer wrong",
    b"Authorization: \xff\xfe",
    b"Idempotency-Key:",
    b"Idempotency-Key: " + b"k" * 129,
    b"Host: twice.example",
    b"Host: a b",
    b"Transfer-Encoding:",
    b"X: " + b"x" * 40_000,
    b" folded",
    b"\tfolded: too",
    b": no name",
    b"No colon",
    b"Na me: x",
    b"X: a\0b",
    b"X: a\rb",
    b"X: a\nContent-Length: 1",
    b"X\x7f: a",
    b"\xc3\xa9: a",
    b"X: " + b"x" * 9_000,
    b"Cookie: " + b"c" * 70_000,
    b"\r\n".join(b"X-%d: v" % n for n in range(200)),
    b"Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5",
    b"Origin: https://a.example\r\nOrigin: https://b.example",
    b"Origin: https://a.example\x0bX: injected",
    b"Access-Control-Request-Headers: a\x85b",
    b"Access-Control-Request-Headers: x\r\n y: z",
    b"X-Forwarded-For: " + b"1.1.1.1, " * 800,
    b"X-Forwarded-For: [::1]:99999, 1.2.3.4.5, \xff",
    b"Forwarded: " + b"for=10.0.0.1, " * 2_000,
    b'Forwarded: for="192.0.2.7',
    b'Forwarded: \xff;for="[::1]:\\";="',
    b"X-Real-IP: 1.1.1.1\r\nX-Real-IP: 2.2.2.2",
    b"DNT: 1\r\nDNT: \xff",
    b"Sec-GPC: 1",
    b"User-Agent: Googlebot/2.1\xff",
    b"Referer: http://[",
    b"Trailer: Content-Length",
    b"TE: trailers",
    b"Accept-Encoding: br;q=0, *;q=x, \xff",
    b"If-None-Match: *",
)
_TARGETS = (
    b"http://[::1]..@/public/open/analytics/collect",
    b"http://a:b@c:99999/public/open/analytics/collect",
    b"//[/public/open/analytics/collect",
    b"/public/open/analytics/collect#x",
    b"/public/o%70en/analytics/collect",
    b"/public/%00/analytics/collect",
    b"/public/../public/open/analytics/collect",
    b"/public/" + b"a" * 9_000 + b"/analytics/collect",
    b"/public/%ff%fe/analytics/collect",
    b"/public/\xff/analytics/collect",
    b"/public/open/analytics/collect?" + b"&" * 3_000,
    b"/public/open/e",
    b"/public/open/e//",
    b"/public/open/batch",
    b"/public/strict/batch/",
    b"/public/keyed/batch?x",
    b"/public/open/batch//",
    b"/public/open/batch/x",
    b"/public/open/p.gif",
    b"/public/open/p.gif?page_path=%ff&lcp=1e999&is_entry=%00&%zz",
    b"/public/strict/p.gif?\xff=\xfe&&;=%&utm_source=\xc3",
    b"/public/nobody/p.gif?" + b"utm_source=%41&" * 500,
    b"/public/humans/p.gif/",
    b"/public/open/t.js",
    b"/public/nobody/t.js",
    b"/t.js?x",
    b"/t-0123456789ab.js",
    b"/demo/../t.js",
    b"example.com:443",
    b"*",
    b"",
    b"?",
    b"http://",
    b"https://\xe2\x84\x80/",
    b"mailto:a@b",
)
_METHODS = (
    b"CONNECT",
    b"HEAD",
    b"TRACE",
    b"post",
    b"PRI",
    b"P\0ST",
    b"",
    b"M" * 300,
    b"POST POST",
    b"\xffOST",
    b"PURGE",
    b"*",
)
_VERSIONS = (
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.9",
    b"HTTP/11.1",
    b"HTTP/1.1 x",
    b"",
    b"http/1.1",
    b"HTTP/1.\xb2",
    b"ICY",
    b"RTSP/1.0",
    b"HTTP/9.9",
)
_STRANGERS = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    bytes.fromhex("16030100c8010000c40303") + bytes(190),
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"\x04\x01\0\x50\x7f\0\0\x01\0",
    b"GET /\r\n",
    b"\0" * 100,
    b"\r\n" * 50,
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
)


def mutate(random: Random, data: bytes) -> bytes:
    """Mutate a request one to three times."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(_MUTATIONS)(random, data)
    return data


def _flip(random: Random, data: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 2, 8))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _flip_in_head(random: Random, data: bytes) -> bytes:
    head, end, rest = data.partition(b"\r\n\r\n")
    return _flip(random, head) + end + rest


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    what = random.choice(
        (b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b":", b"\xff", random.randbytes(random.randint(1, 20)))
    )
    return data[:at] + what + data[at:]


def _delete(random: Random, data: bytes) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + data[at + random.choice((1, 1, 2, 4, 30)) :]


def _double(random: Random, data: bytes) -> bytes:
    start = random.randint(0, len(data))
    end = min(len(data), start + random.choice((1, 10, 100, 5_000)))
    return data[:end] + data[start:end] + data[end:]


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def _line(change: Callable[[Random, list[bytes]], None]) -> Callable[[Random, bytes], bytes]:
    def mutation(random: Random, data: bytes) -> bytes:
        head, end, rest = data.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        change(random, lines)
        return b"\r\n".join(lines) + end + rest

    return mutation


def _add_line(random: Random, lines: list[bytes]) -> None:
    lines.insert(random.randint(1, len(lines)), random.choice(_LINES))


def _drop_line(random: Random, lines: list[bytes]) -> None:
    del lines[random.randrange(len(lines))]


def _repeat_line(random: Random, lines: list[bytes]) -> None:
    lines.insert(random.randint(0, len(lines)), random.choice(lines))


def _shuffle_lines(random: Random, lines: list[bytes]) -> None:
    random.shuffle(lines)


def _first_line(place: int, instead: tuple[bytes, ...]) -> Callable[[Random, list[bytes]], None]:
    def change(random: Random, lines: list[bytes]) -> None:
        words = lines[0].split(b" ") if lines else []
        if len(words) > place:
            words[place] = random.choice(instead)
            lines[0] = b" ".join(words)

    return change


def _change_length(random: Random, lines: list[bytes]) -> None:
    for place, line in enumerate(lines):
        name, _, value = line.partition(b": ")
        if name == b"Content-Length" and value.isdigit():
            off = random.choice((-100, -1, 1, 2, 1_000, 70_000))
            lines[place] = b"%b: %d" % (name, int(value) + off)


def _line_ends(random: Random, data: bytes) -> bytes:
    return data.replace(b"\r\n", random.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n")), random.choice((1, 2, -1)))


def _chunks(random: Random, data: bytes) -> bytes:
    """Replace the body with invalid chunks."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = random.choice(
        (
            b"%x" % len(body),
            b"-1",
            b"+5",
            b"0x5",
            b"ffffffffffffffff",
            b"5 ",
            b" 5",
            b"",
            b"g",
            b"5;" + b"e" * 9_000,
            b"1_0",
        )
    )
    tail = random.choice(
        (b"\r\n0\r\n\r\n", b"0\r\n\r\n", b"\n0\n\n", b"\r\n0\r\nContent-Length: 5\r\n\r\n", b"\r\n0\r\nX", b"")
    )
    head = b"\r\n".join(
        line for line in head.split(b"\r\n") if not line.startswith((b"Content-Length", b"Transfer-Enc"))
    )
    return head + b"\r\nTransfer-Encoding: chunked" + end + length + b"\r\n" + body + tail


def _stranger(random: Random, data: bytes) -> bytes:
    return random.choice((b"", data)) + random.choice(_STRANGERS) + random.choice((b"", data))


_MUTATIONS: tuple[Callable[[Random, bytes], bytes], ...] = (
    *2 * (_flip, _flip_in_head, _insert, _delete),
    _double,
    _truncate,
    *3 * (_line(_add_line),),
    _line(_drop_line),
    _line(_repeat_line),
    _line(_shuffle_lines),
    _line(_first_line(0, _METHODS)),
    _line(_first_line(1, _TARGETS)),
    _line(_first_line(2, _VERSIONS)),
    *2 * (_line(_change_length),),
    _line_ends,
    _chunks,
    _stranger,
)
