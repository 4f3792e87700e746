"""Pixels: events in the URL of an image."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.daemon.worker import Worker
from collector.edge.bodies import MAX_INCOMING_BYTES
from collector.edge.responses import PIXEL
from collector.events import FIELDS
from collector.sender_keys import fingerprint
from tests.crash.conftest import times
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Answer, Wire, chunk, head, soon, tally, until
from tests.support import NOON_US, UNUSED_DATA_DIR, FakeClock, Running, config, event, running

REFERER = b"Referer: https://shop.example/a%20sale/?utm=x#top"
KEY = "ck_test"
SITES: dict[str, dict[str, Any]] = {
    "demo": {},
    "other": {},
    "off": {"tracking": False},
    "listed": {"allowed_origins": ["https://shop.example"]},
    "closed": {"excluded_ips": ["127.0.0.1"]},
    "paths": {"excluded_paths": ["/admin/*"]},
    "strict": {"strict": True},
    "humans": {"bots": "drop", "respect_gpc": True},
    "keyed": {"keys": [fingerprint(KEY)]},
}


def image(query: str = "", *lines: bytes, site: str = "demo", method: str = "GET", version: str = "1.1") -> bytes:
    query = f"?{query}" if query else ""
    return head(*lines, method=method, target=f"/public/{site}/p.gif{query}", version=version)


def is_image(answer: Answer, *, has_body: bool = True) -> bool:
    headers = answer.headers
    return (200, PIXEL if has_body else b"", "image/gif", "no-store", "cross-origin", "43") == (
        answer.status,
        answer.body,
        headers["Content-Type"],
        headers["Cache-Control"],
        headers["Cross-Origin-Resource-Policy"],
        headers["Content-Length"],
    )


@pytest.fixture
async def collector(serve: Serve) -> Running:
    return await serve(SITES, rate_limit={"burst": 100_000})


@pytest.fixture
async def wire(collector: Running, connect: Connect) -> Wire:
    return await connect(collector)


async def rows(collector: Running, site: str = "demo") -> list[dict[str, Any]]:
    await collector.flush()
    return collector.rows(site)


def test_image_is_a_gif_of_one_transparent_dot() -> None:
    assert 43 == len(PIXEL)
    assert PIXEL.startswith(b"GIF89a\1\0\1\0")
    assert b"\x21\xf9\x04\x01" in PIXEL  # with a transparent colour
    assert PIXEL.endswith(b"\x3b")


async def test_image_alone_is_a_pageview(collector: Running, wire: Wire) -> None:
    """With the page of the Referer, now, of a visitor without a cookie."""
    answer = await wire.ask(image("", REFERER, b"User-Agent: Mail/1"))
    assert is_image(answer)
    assert answer.reason is None
    (row,) = await rows(collector)
    given = {name: value for name, value in row.items() if value is not None}
    visitor = given.pop("visitor_id")
    assert re.fullmatch("[0-9a-f]{32}", visitor)
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=NOON_US)
    assert given == {
        "site_id": "demo",
        "received_at": now,
        "event_time": now,
        "session_id": visitor,
        "visitor_id_source": "fingerprint",
        "event_type": "pageview",
        "page_path": "/a%20sale/",
        "user_agent": "Mail/1",
    }


async def test_query_gives_the_fields(collector: Running, wire: Wire) -> None:
    query = urlencode(
        {
            "event_type": "click",
            "page_path": "/pricing",
            "visitor_id": "visitor-0001",
            "event_time": "2026-05-12T10:00:00Z",
            "utm_source": "Größe & more",
            "lcp": "12.5",
            "click_x": "-3",
            "click_y": "1e2",
            "is_entry": "true",
            "is_exit": "0",
            "unknown": "1",
            "browser": "",
            "screen_width": "",
        }
    )
    assert is_image(await wire.ask(image(query, REFERER)))
    (row,) = await rows(collector)
    expected = {"event_type": "click", "page_path": "/pricing", "visitor_id": "visitor-0001", "visitor_id_source": None}
    expected |= {"utm_source": "Größe & more", "lcp": 12.5, "click_x": -3.0, "click_y": 100.0, "browser": None}  # type: ignore[dict-item]
    expected |= {"is_entry": True, "is_exit": False, "screen_width": None}  # type: ignore[dict-item]
    assert expected == {name: row[name] for name in expected}
    assert datetime(2026, 5, 12, 10, tzinfo=UTC) == row["event_time"]


@pytest.mark.parametrize(
    ("query", "field", "value"),
    [
        ("utm_source=a+b", "utm_source", "a b"),
        ("utm_source=a%2Bb", "utm_source", "a+b"),
        ("utm_source=first&utm_source=last", "utm_source", "last"),
        ("utm_source=first&utm_source=", "utm_source", "first"),
        ("utm_source=%FF", "utm_source", "\ufffd"),
        ("utm_source=%ED%A0%BD", "utm_source", "\ufffd\ufffd\ufffd"),
        ("utm_source=%C3%A9%FF%E2%82", "utm_source", "é\ufffd\ufffd"),
        ("utm_source=%00", "utm_source", "\0"),
        ("utm_source=%2526%26%3D%23", "utm_source", "%26&=#"),
        ("utm_source=50%&utm_medium=%zz%4", "utm_source", "50%"),
        ("utm_source=50%&utm_medium=%zz%4", "utm_medium", "%zz%4"),
        ("utm_source=a#utm_source=b", "utm_source", "a"),
        ("utm_source=a;utm_medium=b?c=d", "utm_source", "a;utm_medium=b?c=d"),
        ("utm_source=a=b", "utm_source", "a=b"),
        ("utm_source", "utm_source", None),
        ("%75tm_source=x", "utm_source", "x"),
        ("is_entry=TRUE", "is_entry", True),
        ("is_entry=1", "is_entry", True),
        ("is_entry=False", "is_entry", False),
        ("lcp=0", "lcp", 0.0),
        ("lcp=-0.5e-1", "lcp", -0.05),
        ("lcp=12345678901234567890", "lcp", 12345678901234567890.0),
        ("event_time=yesterday", "event_time_raw", "yesterday"),
    ],
)
async def test_parameters_are_read_by_the_kind_of_their_column(
    collector: Running, wire: Wire, query: str, field: str, value: object
) -> None:
    answer = await wire.ask(image(query))
    assert (True, None) == (is_image(answer), answer.reason)
    (row,) = await rows(collector)
    assert value == row[field]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("event_type=nothing", "event_type must be one of"),
        ("visitor_id=short", "visitor_id must have at least 8 characters"),
        ("lcp=fast", "lcp must be a number"),
        ("lcp=NaN", "lcp must be a number"),
        ("lcp=1e999", "lcp"),
        ("lcp=1_000", "lcp must be a number"),
        ("lcp=%D9%A3", "lcp must be a number"),
        ("lcp=0x10", "lcp must be a number"),
        ("is_entry=yes", "is_entry must be a boolean"),
        ("page_path=" + "x" * 1025, "page_path must have at most 1024 characters"),
    ],
)
async def test_invalid_event_gets_the_image_too(collector: Running, wire: Wire, query: str, message: str) -> None:
    for site in ("demo", "strict"):
        answer = await wire.ask(image(query, site=site))
        assert (True, "invalid") == (is_image(answer), answer.reason)
    assert [] == await rows(collector)
    (kept,) = collector.rejected("demo")
    assert message in kept["message"]


@pytest.mark.parametrize(
    ("referer", "path"),
    [
        (b"https://shop.example", "/"),
        (b"https://shop.example/", "/"),
        (b"https://shop.example/p/?a=/b#/c", "/p/"),
        (b"https://shop.example/caf\xc3\xa9", "/café"),
        (b"https://shop.example/\xff", "/\ufffd"),
        (b"http://[::1/x", "/"),
        (b"about:blank", "/"),
        (b"android-app://com.example/", "/"),
        (b"garbage", "/"),
        (b"https://shop.example/" + b"x" * 2_000, "/" + "x" * 1023),
    ],
)
async def test_path_is_that_of_the_referer(collector: Running, wire: Wire, referer: bytes, path: str) -> None:
    answer = await wire.ask(image("", b"Referer: " + referer))
    assert (True, None) == (is_image(answer), answer.reason)
    assert [path] == [row["page_path"] for row in await rows(collector)]


async def test_head_stores_and_counts_nothing(collector: Running, wire: Wire) -> None:
    """A mail proxy may send HEAD before GET: without a Referer, without cookies."""
    for lines in ((), (b"User-Agent: Mozilla/5.0 (via ggpht.com GoogleImageProxy)",)):
        assert is_image(await wire.ask(image("utm_campaign=may", *lines, method="HEAD")), has_body=False)
    assert {} == tally(collector)
    assert is_image(await wire.ask(image("utm_campaign=may")))
    assert ["may"] == [row["utm_campaign"] for row in await rows(collector)]
    assert {"received": 1, "stored": 1} == tally(collector)


async def test_image_over_http_1_0(collector: Running, connect: Connect) -> None:
    answer = await (await connect(collector)).ask(image("", version="1.0"))
    assert is_image(answer)
    assert 1 == len(await rows(collector))


@pytest.mark.parametrize(
    ("site", "query", "lines", "reason"),
    [
        ("nobody", "", [], "unknown_site"),
        ("off", "", [], "tracking_disabled"),
        ("demo", "", [b"Referer: http://localhost:3000/x"], "localhost"),
        ("demo", "", [b"Referer: http://127.0.0.1/"], "localhost"),
        ("demo", "", [b"Origin: http://localhost"], None),  # the page is that of the Referer
        ("listed", "", [REFERER], None),
        ("listed", "", [b"Referer: https://evil.example/"], "origin_not_allowed"),
        ("listed", "", [b"Referer: https://evil.example/", b"Origin: https://shop.example"], "origin_not_allowed"),
        ("listed", "", [], None),  # a mail
        ("closed", "", [], "excluded_ip"),
        ("paths", "", [b"Referer: https://shop.example/admin/x"], "excluded_path"),
        ("paths", "page_path=/admin/x", [REFERER], "excluded_path"),
        ("humans", "", [b"Sec-GPC: 1"], "opted_out"),
        ("humans", "", [b"User-Agent: Googlebot/2.1"], "bot"),
        ("keyed", "", [b"Authorization: Bearer wrong"], None),
        ("keyed", "", [b"Authorization: Bearer " + KEY.encode()], None),
        ("demo", "", [b"Content-Encoding: br"], None),
        ("demo", "", [b"If-None-Match: *", b"Range: bytes=0-1"], None),
    ],
)
async def test_rules_are_those_of_every_event(
    collector: Running, wire: Wire, site: str, query: str, lines: list[bytes], reason: str | None
) -> None:
    answer = await wire.ask(image(query, *lines, site=site))
    assert (True, reason) == (is_image(answer), answer.reason)
    counted = tally(collector, "(unknown)" if site == "nobody" else site)
    assert {"received": 1, reason or "stored": 1} == counted or (site, {"unknown_site": 1}) == ("nobody", counted)
    assert (reason is None) is bool(await rows(collector, site) if site != "nobody" else False)


async def test_client_over_its_rate_gets_the_image_too(serve: Serve, connect: Connect) -> None:
    collector = await serve({"keyed": SITES["keyed"]}, rate_limit={"burst": 2, "requests_per_minute": 1})
    wire = await connect(collector)
    for _ in range(3):
        assert is_image(await wire.ask(image(site="keyed", method="HEAD")), has_body=False)
    bearer = b"Authorization: Bearer " + KEY.encode()
    answers = [await wire.ask(image("", bearer, site="keyed")) for _ in range(3)]
    assert [None, None, "rate_limited"] == [answer.reason for answer in answers]
    assert all(map(is_image, answers))


async def test_image_is_sent_when_nothing_can_be_stored(
    collector: Running, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.stages.journal.blocked_reason = "disk space is low"
    answers = [await wire.ask(image())]
    collector.stages.journal.blocked_reason = None
    with monkeypatch.context() as patched:
        patched.setattr("collector.edge.pixel._path_of", lambda _: 1 / 0)
        answers.append(await wire.ask(image()))
    assert ["unavailable", "internal"] == [answer.reason for answer in answers]
    assert all(map(is_image, answers))
    assert {"received": 2, "unavailable": 1, "internal": 1} == tally(collector)
    page = (await collector.stages.metrics_page()).decode()
    assert 'collector_pixels_total{outcome="dropped"} 2.0' in page
    assert 'collector_pixels_total{outcome="stored"} 0.0' in page


async def test_body_is_ignored(collector: Running, connect: Connect) -> None:
    data = json.dumps(event(page_path="/other")).encode()
    for lines, reason in (
        ([b"Content-Length: %d" % len(data)], None),
        ([b"Content-Length: 100000"], "too_large"),
    ):
        wire = await connect(collector)
        wire.send(image("page_path=/own", *lines) + data)
        answer = await wire.answer()
        assert (True, reason) == (is_image(answer), answer.reason)
    assert ["/own"] == [row["page_path"] for row in await rows(collector)]


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (image("", CHUNKED) + chunk(b"x" * 100) + chunk(b""), None),
        (image("", CHUNKED, b"Content-Encoding: gzip") + chunk(b"no gzip") + chunk(b""), None),
        (image("", b"Transfer-Encoding: gzip, chunked") + chunk(b""), None),
        (image("", CHUNKED) + chunk(b"x" * 600), "too_large"),
        (image("", b"Content-Length: 600"), "too_large"),
        (image("", b"Content-Length: 5") + b"x", "timeout"),
        (image("", CHUNKED) + chunk(b"x"), "timeout"),
        (image("", b"Content-Length: 512"), "unavailable"),
    ],
)
async def test_image_is_sent_whatever_becomes_of_a_body(
    serve: Serve, connect: Connect, sent: bytes, reason: str | None
) -> None:
    collector = await serve(server={"max_body_bytes": 512, "body_timeout_s": 0.3})
    wire = await connect(collector)
    if reason == "unavailable":  # other bodies have taken all memory
        collector.server.bodies.take(MAX_INCOMING_BYTES - 511)
    answer = await wire.ask(sent)
    assert (True, reason) == (is_image(answer), answer.reason)
    assert {"received": 1, reason or "stored": 1} == tally(collector)
    await soon(collector.stages.decider.in_flight.none())


async def test_broken_framing_is_a_400_that_the_page_can_read(collector: Running, wire: Wire) -> None:
    wire.send(image("", CHUNKED, REFERER, b"Origin: https://reader.example"))
    await until(lambda: collector.stages.decider.in_flight.count)
    wire.send(b"no chunk\r\n")
    answer = await wire.answer()
    assert (400, "invalid") == (answer.status, answer.reason)
    assert "https://reader.example" == answer.headers["Access-Control-Allow-Origin"]
    assert {"received": 1, "invalid": 1} == tally(collector)


async def test_url_with_raw_bytes_is_not_http(collector: Running, connect: Connect) -> None:
    """A URL is ASCII (RFC 3986); clients percent-encode it. Others get the fixed 400 of what is not HTTP."""
    for query in ("utm_source=\xe9".encode("latin-1"), "utm_source=é".encode()):
        wire = await connect(collector)
        answer = await wire.ask(image("QUERY").replace(b"QUERY", query))
        assert (400, b"Bad request\n") == (answer.status, answer.body)
    assert {} == tally(collector)
    assert is_image(await (await connect(collector)).ask(image()))


async def test_head_larger_than_the_limit_is_counted_for_its_site(collector: Running, wire: Wire) -> None:
    answer = await wire.ask(image("utm_source=" + 33_000 * "x"))
    assert (431, "too_large") == (answer.status, answer.reason)
    assert {"received": 1, "too_large": 1} == tally(collector)


@pytest.mark.parametrize("leaves", [Wire.close, Wire.abort], ids=["closes", "resets"])
async def test_event_of_a_reader_who_leaves_at_once_is_stored(
    collector: Running, wire: Wire, leaves: Callable[[Wire], None]
) -> None:
    """A reader who closes a mail cuts the connection before the image has arrived."""
    seen = collector.stages.decider.in_flight
    wire.send(image("utm_campaign=may"))
    await until(lambda: seen.count or tally(collector))
    leaves(wire)
    await soon(seen.none())
    assert {"received": 1, "stored": 1} == tally(collector)
    assert ["may"] == [row["utm_campaign"] for row in await rows(collector)]


@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "DELETE"])
async def test_other_methods_are_refused(wire: Wire, method: str) -> None:
    answer = await wire.ask(image(method=method))
    assert (405, "method", "GET, HEAD") == (answer.status, answer.reason, answer.headers["Allow"])


@pytest.mark.parametrize("target", ["/public/demo/p.gif/", "/p.gif", "/public/demo/P.GIF", "/public//x/p.gif"])
async def test_other_paths_are_not_pixels(wire: Wire, target: str) -> None:
    assert (404, "not_found") == ((answer := await wire.ask(head(method="GET", target=target))).status, answer.reason)


async def test_page_of_another_origin_may_read_the_answer(wire: Wire) -> None:
    """An `<img crossorigin>` sends an Origin, and wants it back."""
    answer = await wire.ask(image("", b"Origin: https://shop.example"))
    assert "https://shop.example" == answer.headers["Access-Control-Allow-Origin"]


async def visitor(collector: Running, wire: Wire, site: str = "demo", agent: bytes = b"A") -> str:
    collector.clock.advance(0.001)
    assert is_image(await wire.ask(image("", b"User-Agent: " + agent, site=site)))
    found: str = (await rows(collector, site))[-1]["visitor_id"]
    return found


@pytest.mark.parametrize("policy", ["none", "hash"])
async def test_visitor_is_the_same_for_a_day_and_a_site(
    serve: Serve, connect: Connect, clock: FakeClock, tmp_path: Path, policy: str
) -> None:
    collector = await serve(SITES, privacy={"client_ip": policy})
    wire = await connect(collector)
    first = await visitor(collector, wire)
    assert first == await visitor(collector, wire)
    others = [await visitor(collector, wire, agent=b"B"), await visitor(collector, wire, site="other")]
    keys = [path.read_bytes() for path in collector.data_dir.glob("client_ip-*.key")]
    clock.advance(86_400)
    collector.stages.keys.tend()
    others.append(await visitor(collector, wire))
    assert 4 == len({first, *others})
    assert first not in [row["client_ip"] for row in collector.rows()]
    left = [path.read_bytes() for path in collector.data_dir.glob("client_ip-*.key")]
    assert (2, 2, 1) == (len(keys), len(left), len({*keys} & {*left})), "yesterday's key is deleted"


async def test_pixel_whose_key_is_missing_is_told_and_a_key_is_made(
    collector: Running, wire: Wire, clock: FakeClock
) -> None:
    """Other events need no key, and are stored. The collector stays ready."""
    clock.us += 3 * 86_400_000_000
    answer = await wire.ask(image())
    assert (True, "unavailable") == (is_image(answer), answer.reason)
    assert collector.stages.keys.missed.is_set()
    assert collector.stages.unready_reason() is None
    assert 201 == (await collector.post(event())).status
    assert (await wire.ask(image("visitor_id=visitor-0001&session_id=s"))).reason is None
    collector.stages.keys.tend()
    assert (await wire.ask(image())).reason is None


async def test_reload_keeps_visitors(collector: Running, wire: Wire) -> None:
    first = await visitor(collector, wire)
    worker = Worker(config(collector.data_dir, SITES), collector.stages, UNUSED_DATA_DIR, collector.clock)
    await worker.take_over(config(collector.data_dir, SITES, privacy={"client_ip": "hash"}))
    assert first == await visitor(collector, wire)


# What a URL may have: names, values and characters with a meaning, and any others.
PIECES = (
    st.sampled_from([f"&{field.name}=" for field in FIELDS])
    | st.sampled_from(
        ["&", "=", "%", "+", ";", "#", "?", "%00", "%FF", "%ED%A0%BD", "1e999", "NaN", "-0", "true", "click"]
    )
    | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=5)
)
REFERERS = st.sampled_from([b"", b"http://localhost", b"https://a.example/", b"//"]).flatmap(
    lambda begun: st.lists(
        st.sampled_from([bytes([byte]) for byte in range(0x21, 0x100) if byte != 0x7F]), max_size=20
    ).map(lambda rest: begun + b"".join(rest))
)


async def load(data_dir: Path, requests: list[tuple[str, list[str], bytes]]) -> None:
    """Each pixel gets the image, and is stored or counted with its reason."""
    counts: dict[str, Counter[str]] = {site: Counter() for site in SITES}
    async with running(config(data_dir, SITES, rate_limit={"burst": 100_000})) as collector:
        wire = Wire(*await asyncio.open_connection(collector.host, collector.port))
        for site, pieces, referer in requests:
            answer = await wire.ask(image("".join(pieces), *([b"Referer: " + referer] if referer else []), site=site))
            assert is_image(answer)
            counts[site].update(("received", answer.reason or "stored"))
        wire.close()
        assert counts == {site: tally(collector, site) for site in SITES}
        await collector.flush()
        assert [counts[site]["stored"] for site in SITES] == [len(collector.rows(site)) for site in SITES]
    assert "internal" not in {reason for counted in counts.values() for reason in counted}


def test_any_url_and_referer_get_the_image_and_are_counted() -> None:
    @settings(max_examples=times(10, 100), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.sampled_from([*SITES]), st.lists(PIECES, max_size=12), REFERERS), max_size=30))
    def check(requests: list[tuple[str, list[str], bytes]]) -> None:
        with TemporaryDirectory() as folder:
            asyncio.run(load(Path(folder), requests))

    check()
