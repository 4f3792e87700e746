"""The tracker's script: its paths, encodings, caching and headers, over both paths of HTTP."""

import gzip
import hashlib
from base64 import b64encode

import pytest

from collector.edge.script import current
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Answer, Wire, head, request, tally
from tests.support import Running, body

CONTENT = current().content
PINNED = f"/t-{hashlib.sha256(CONTENT['identity']).hexdigest()[:12]}.js"
PATHS = ("/t.js", "/public/demo/t.js", PINNED, f"/public/demo{PINNED}")
HOUR = "public, max-age=3600, stale-while-revalidate=86400"
FOR_EVER = "public, max-age=31536000, immutable"
UNCOUNTED: tuple[dict[str, int], dict[str, int]] = ({}, {})


def get(path: str, *lines: bytes, method: str = "GET") -> bytes:
    return head(*lines, method=method, target=path)


def encoding_of(answer: Answer) -> str:
    return answer.headers.get("Content-Encoding", "identity")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", [*PATHS, "/public/d%65mo/t.js", "/t.js?v=1", "/public/demo/t.js?"])
@pytest.mark.parametrize(
    ("accepted", "encoding"), [(b"gzip, deflate, br, zstd", "br"), (b"gzip", "gzip"), (b"", "identity")]
)
async def test_script_has_its_headers(
    collector: Running, wire: Wire, method: str, path: str, accepted: bytes, encoding: str
) -> None:
    """All of them, and no other. It is not counted as an event."""
    answer = await wire.ask(get(path, b"Accept-Encoding: " + accepted, method=method))
    tag = answer.headers.pop("ETag")
    assert tag == f'"{hashlib.sha256(CONTENT[encoding]).hexdigest()[:16]}"'
    expected = {
        "Server": "collector",
        "Content-Type": "text/javascript; charset=utf-8",
        "Access-Control-Allow-Origin": "*",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": FOR_EVER if path.endswith(PINNED) else HOUR,
        "Vary": "Accept-Encoding",
        "Content-Encoding": encoding,
        "Content-Length": str(len(CONTENT[encoding])),
    }
    if encoding == "identity":
        del expected["Content-Encoding"]
    assert expected == {name: value for name, value in answer.headers.items() if name != "Date"}
    assert (200, CONTENT[encoding] if method == "GET" else b"") == (answer.status, answer.body)
    assert UNCOUNTED == (tally(collector), tally(collector, "(unknown)"))


async def test_every_encoding_is_of_the_same_script(wire: Wire) -> None:
    unpacked = gzip.decompress((await wire.ask(get("/t.js", b"Accept-Encoding: gzip"))).body)
    assert (await wire.ask(get("/t.js"))).body == unpacked


async def test_integrity_is_that_of_the_script(wire: Wire) -> None:
    """A browser hashes what it has unpacked."""
    served = (await wire.ask(get(PINNED))).body
    assert current().integrity == f"sha384-{b64encode(hashlib.sha384(served).digest()).decode()}"


@pytest.mark.parametrize(
    ("lines", "encoding"),
    [
        ((b"Accept-Encoding: gzip", b"Accept-Encoding: br"), "br"),
        ((b"Accept-Encoding: br;q=0", b"Accept-Encoding: *"), "gzip"),
        ((), "identity"),
    ],
)
async def test_repeated_accept_encoding_is_one_list(wire: Wire, lines: tuple[bytes, ...], encoding: str) -> None:
    assert encoding == encoding_of(await wire.ask(get("/t.js", *lines)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("accepted", [b"br", b"gzip", b""])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_unchanged_script_is_not_sent_again(wire: Wire, path: str, accepted: bytes, method: str) -> None:
    """The 304 has the headers that a cache may need, and nothing about a body (RFC 9110, 15.4.5)."""
    accepts = b"Accept-Encoding: " + accepted
    first = await wire.ask(get(path, accepts, method=method))
    tag = first.headers["ETag"].encode()
    for lines in (
        (b"If-None-Match: " + tag,),
        (b"If-None-Match: W/" + tag,),
        (b'If-None-Match: "a,b", ' + tag + b', "c"',),
        (b'If-None-Match: "a"', b"If-None-Match: " + tag),
        (b"If-None-Match: *",),
    ):
        again = await wire.ask(get(path, accepts, *lines, method=method))
        assert (304, b"") == (again.status, again.body)
        gone = {"Content-Type", "Content-Encoding", "Content-Length"}
        assert {name: value for name, value in first.headers.items() if name not in {*gone, "Date"}} == {
            name: value for name, value in again.headers.items() if name != "Date"
        }
    assert 201 == (await wire.ask(request(body()))).status


@pytest.mark.parametrize("line", [b'If-None-Match: "x"', b"If-None-Match:", b"If-None-Match: x", b'If-None-Match: "*"'])
async def test_changed_script_is_sent(wire: Wire, line: bytes) -> None:
    assert 200 == (await wire.ask(get("/t.js", line))).status


async def test_tag_of_another_encoding_does_not_match(wire: Wire) -> None:
    """A strong tag names bytes: a cache that has gzip must not use it as brotli."""
    tag = (await wire.ask(get("/t.js", b"Accept-Encoding: gzip"))).headers["ETag"].encode()
    answer = await wire.ask(get("/t.js", b"Accept-Encoding: br", b"If-None-Match: " + tag))
    assert (200, "br") == (answer.status, encoding_of(answer))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
@pytest.mark.parametrize("path", PATHS)
async def test_script_is_only_read(collector: Running, wire: Wire, path: str, method: str) -> None:
    answer = await wire.ask(get(path, method=method))
    assert (405, "GET, HEAD", "method") == (answer.status, answer.headers["Allow"], answer.reason)
    assert {"received": 1, "method": 1} == tally(collector, "(unknown)")


@pytest.mark.parametrize("site", ["nobody", "Demo", "", "%FF", "a" * 65])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_unknown_site_has_no_script(collector: Running, wire: Wire, site: str, method: str) -> None:
    """A wrong site id shows at once, not by events that never arrive."""
    for name in ("/t.js", PINNED):
        answer = await wire.ask(get(f"/public/{site}{name}", method=method))
        assert (404, "unknown_site") == (answer.status, answer.reason)
    assert {"received": 2, "unknown_site": 2} == tally(collector, "(unknown)")


@pytest.mark.parametrize(
    "path",
    [
        "/t-0123456789ab.js",
        PINNED.upper(),
        "/public/demo/t-0123456789ab.js",
        f"{PINNED}.br",
        "/t.js.br",
        "/t.js/",
        "/T.js",
        "/%74.js",
        "/s.js",
        "/public/demo/t.js/",
        "/public/demo/s.js",
        "/public/a/b/t.js",
        "/public/t.js",
        "/../t.js",
        "/collector.d.ts",
        "/released/README",
    ],
)
async def test_other_paths_are_not_found(collector: Running, wire: Wire, path: str) -> None:
    answer = await wire.ask(get(path))
    assert (404, "not_found") == (answer.status, answer.reason)
    assert {"received": 1, "not_found": 1} == tally(collector, "(unknown)")


async def test_set_path_serves_the_script_beside_the_default(serve: Serve, connect: Connect) -> None:
    """So a page that has the old path still sends after a change."""
    collector = await serve(tracker={"script_path": "s.x.js"})
    wire = await connect(collector)
    for path in ("/s.x.js", "/public/demo/s.x.js", *PATHS):
        assert CONTENT["identity"] == (await wire.ask(get(path))).body
    pinned = PINNED.replace("/t-", "/s.x-")
    for path in (pinned, f"/public/demo{pinned}"):
        answer = await wire.ask(get(path))
        assert (CONTENT["identity"], FOR_EVER) == (answer.body, answer.headers["Cache-Control"])
    for path in ("/sxx.js", "/public/demo/sxx.js", "/public/nobody/s.x.js"):
        assert 404 == (await wire.ask(get(path))).status


async def test_script_costs_no_token_and_needs_no_disk(serve: Serve, connect: Connect) -> None:
    """A visitor behind a crowded address still gets it; what it sends then waits for its 429 or 503."""
    collector = await serve(rate_limit={"requests_per_minute": 1, "burst": 1})
    collector.stages.journal.blocked_reason = "disk space is low"
    wire = await connect(collector)
    for _ in range(3):
        for path in PATHS:
            assert 200 == (await wire.ask(get(path))).status
    collector.stages.journal.blocked_reason = None
    assert [201, 429] == [(await wire.ask(request(body()))).status for _ in range(2)]


async def test_site_that_no_longer_tracks_still_has_its_script(serve: Serve, connect: Connect) -> None:
    """Its pages would show an error otherwise."""
    collector = await serve({"demo": {"tracking": False}})
    assert 200 == (await (await connect(collector)).ask(get("/public/demo/t.js"))).status


async def test_script_is_served_over_http_1_0(wire: Wire) -> None:
    wire.send(b"GET /t.js HTTP/1.0\r\n\r\n")
    answer = await wire.answer()
    assert (200, CONTENT["identity"]) == (answer.status, answer.body)
    assert b"" == await wire.rest()


async def test_draining_collector_closes_after_the_script(collector: Running, wire: Wire) -> None:
    collector.stages.decider.in_flight.draining = True
    answer = await wire.ask(get("/t.js"))
    assert (200, "close") == (answer.status, answer.headers["Connection"])
    assert b"" == await wire.rest()
