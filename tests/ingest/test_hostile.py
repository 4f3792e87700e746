"""Hostile bodies, sent through the real endpoint and read back from the files: no event harms another.

Every body becomes a row or gets a 202. The stored rows are compared with tests/ingest/oracle.py, which shares no code
with the collector.
"""

import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.crash.conftest import times
from tests.ingest.oracle import EPOCH, FIELDS, Field, row_of
from tests.support import NOON_US, Running, body, config, event, running

STORED, IGNORED = 201, 202


def nested(depth: int, core: str = "1") -> str:
    return "[" * depth + core + "]" * depth


NASTY = [
    *("0", "-0", "-0.0", "1", "1.5", "1e5", "1E-5", "9007199254740993", "9223372036854775808", "18446744073709551617"),
    *("-9223372036854775809", "9" * 308, "9" * 400, "-" + "9" * 400, "1" + "0" * 4000, "1e308", "1.8e308", "1e999"),
    *("-1e999", "1e-400", "5e-324", "2.2250738585072011e-308", "0." + "0" * 400 + "1e401", "NaN", "Infinity"),
    *("-Infinity", "null", "true", "false", "[]", "{}", '[{"a": [NaN]}]', '{"a": 1e999}', nested(50), nested(400)),
    *(nested(5000), '{"a":' * 300 + "1" + "}" * 300, '""', '"1"', '"true"', '"null"', r'"\ud83d"', r'"\ude00\ud83d"'),
    *(r'"\ud83d\ude00"', r'"\ud83dx\udfff"', r'"\u0000"', r'"a\u0000b"', '"😀"', '"é\u2028\ufeff"', '"\x7f"'),
    *('"\udcff"', '"\udced\udca0\udc80"', r'"\q"'),
    *('"\x01\n\t\x1f"', '"\0"', r'"\u001f\ufffe\uffff"', r'"\"\\\/\b\f\n\r\t"', r'"\x"', r'"\u12"', '"12345678"'),
    *('"' + char * n + '"' for char in ("x", "é", "😀", r"\ud83d") for n in (7, 8, 64, 65, 500, 501, 1024, 1025, 2048)),
    *('"pageview"', '"PageView"', '"cookie"', '"desktop"', '"ai"', '"reading"', '"/pricing"', '"=1+1"', '"../../x"'),
    *(
        '"2026-05-12T10:00:00Z"',
        '"2026-05-12t10:00:00.1234567+05:30"',
        '"2026-05-12 10:00:00"',
        '"2016-12-31T23:59:60Z"',
    ),
    *('"0000-01-01T00:00:00Z"', '"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59.999999Z"', '"1969-12-31T23:59:59.9Z"'),
    *(
        '"0001-01-01T00:00:00+00:01"',
        '"9999-12-31T23:59:59-23:59"',
        '"2026-05-12T10:00:00Z\\n"',
        '"2026-W20-2T10:00:00Z"',
    ),
    # a day after NOON_US and ten years before it, and a little more
    *('"2026-05-29T20:26:40Z"', '"2026-05-29T20:26:40.00002Z"', '"2016-05-28T20:26:40Z"', '"2016-05-28T20:26:39Z"'),
    *('"' + "".join(chr(0x660 + int(c)) if c.isdigit() else c for c in "2026-05-12T10:00:00Z") + '"', '"-62135596800"'),
]
"""JSON values, as raw text."""

UNKNOWN_NAMES = st.sampled_from(
    [
        "",
        "x",
        "Lcp",
        "site_id",
        "received_at",
        "event_time_raw",
        "__proto__",
        r"\ud83d",
        r"\u0000",
        "k" * 5000,
        "é",
        "$ref",
    ]
)
NOT_UTF8 = [b"\xff", b"\xc0\x80", b"\xed\xa0\xbd", b"\x80", b"\xf5"]
SPACE = st.sampled_from([b"", b"", b" ", b"\r\n\t ", b"\n" * 300])

# Fields by kind, so that the single time and the three booleans are drawn as often as the 35 plain texts.
KINDS: list[list[Field]] = [
    [field for field in FIELDS if field.name == "event_time"],
    [field for field in FIELDS if field.types[0] == "number"],
    [field for field in FIELDS if field.types[0] == "boolean"],
    [field for field in FIELDS if field.values],
    [field for field in FIELDS if field.longest < sys.maxsize],
    [field for field in FIELDS if field.types[0] == "string"],
]
NAMES = st.one_of([st.sampled_from([field.name for field in kind]) for kind in KINDS])
KNOWN = st.tuples(NAMES, st.sampled_from(NASTY))
ANYTHING = st.tuples(UNKNOWN_NAMES, st.sampled_from(NASTY))


@cache
def fitting() -> st.SearchStrategy[tuple[str, str]]:
    """A known field, and a nasty value that keeps the event valid."""
    return st.one_of(
        [
            st.sampled_from([(field.name, value) for field in kind for value in NASTY if fits(field.name, value)])
            for kind in KINDS
        ]
    )


def fits(name: str, value: str) -> bool:
    return row_of(written({**plain(), name: value}.items()), NOON_US) is not None


def plain() -> dict[str, str]:
    return {name: json.dumps(value) for name, value in event().items()}


def written(members: Iterable[tuple[str, str]]) -> bytes:
    """The object as text. U+DC80 to U+DCFF stand for bytes that are not UTF-8."""
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in members) + "}").encode("utf-8", "surrogateescape")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A valid event with a few hostile changes to its members and, less often, to its bytes."""
    members = list(plain().items())
    members += draw(st.lists(fitting(), max_size=4))
    if draw(st.integers(0, 2)) == 0:
        members += draw(st.lists(KNOWN, max_size=2))
    members += draw(st.lists(ANYTHING, max_size=1))
    if draw(st.booleans()):
        members = draw(st.permutations(members))  # so that another of two duplicates wins
    data = draw(SPACE) + written(members) + draw(SPACE)
    match draw(st.integers(0, 19)):
        case 1:
            return b"\xef\xbb\xbf" + data
        case 2:
            return data[: draw(st.integers(0, len(data)))]
        case 3:
            return data + draw(st.sampled_from([b"x", b"{}", b"\0", b"]", b",", b"\xef\xbb\xbf", b"\x0b"]))
        case 4:
            at, wrong = draw(st.integers(0, len(data))), draw(st.sampled_from(NOT_UTF8))
            return data[:at] + wrong + data[at:]
        case 5:
            return draw(st.binary(max_size=40))
        case _:
            return data


def expected_of(data: bytes, received_us: int) -> tuple[int, dict[str, Any] | None]:
    """The status and the row that the oracle expects."""
    row = row_of(data, received_us)
    if row is None:
        return IGNORED, None
    added = {"site_id": "demo", "received_at": EPOCH + timedelta(microseconds=received_us), "client_ip": None}
    return STORED, row | added | {"user_agent": "hostile", "bot": None}


async def outcomes(collector: Running, sent: list[bytes]) -> list[tuple[int, dict[str, Any] | None]]:
    """The status and the row of each body. Each is received a microsecond after the one before."""
    statuses = []
    first_us = collector.clock.us
    for data in sent:
        response = await collector.post(data, headers={"User-Agent": "hostile"})
        statuses.append(response.status)
        collector.clock.us += 1
    await collector.flush()
    rows = collector.rows()
    assert statuses.count(STORED) == len(rows), "every 201 is one row, and every row got a 201"
    by_moment = {(row["received_at"] - EPOCH) // timedelta(microseconds=1): row for row in rows}
    assert len(rows) == len(by_moment)
    return [(status, by_moment.get(first_us + n)) for n, status in enumerate(statuses)]


@contextmanager
def collector_of(runner: asyncio.Runner, data_dir: Path, durability: str = "memory") -> Iterator[Running]:
    """A collector without a rate limit, in the runner's loop."""
    context = running(config(data_dir, rate_limit={"requests_per_minute": 0}, storage={"durability": durability}))
    collector = runner.run(context.__aenter__())
    try:
        yield collector
    finally:
        runner.run(context.__aexit__(None, None, None))


def forget_events(collector: Running) -> None:
    """Delete all parts, so that `rows` returns only what comes next."""
    rmtree(collector.data_dir / "events", ignore_errors=True)
    collector.stages.writer.prepare()


def test_hostile_body_becomes_a_correct_row_or_a_202_and_harms_no_other_event(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data_dir = tmp_path_factory.mktemp("hostile") / "data"
    with asyncio.Runner() as runner, collector_of(runner, data_dir) as collector:

        @settings(max_examples=times(50, 300), deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(bodies(), min_size=1, max_size=12), st.integers(0, 12))
        def check(hostile: list[bytes], place: int) -> None:
            sent = [*hostile[:place], body(), *hostile[place:]]
            forget_events(collector)
            expected = [expected_of(data, collector.clock.us + n) for n, data in enumerate(sent)]
            assert expected == runner.run(outcomes(collector, sent))

        check()
        counts = collector.stages.metrics.counts.of_site("demo")
        assert counts.received == counts.stored + sum(counts.dropped.values())
        assert {"invalid"} >= {reason.value for reason in counts.dropped}


def test_generator_makes_both_kinds_of_bodies() -> None:
    """Otherwise the property above would prove little."""
    seen: list[bool] = []

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(bodies())
    def look(data: bytes) -> None:
        seen.append(row_of(data, NOON_US) is not None)

    look()
    assert 0.2 < sum(seen) / len(seen) < 0.9


Outcome = tuple[int, object]

POISON: dict[str, tuple[str, str, Outcome]] = {
    "lone surrogate": ("page_title", r'"cut \ud83d"', (STORED, "cut \ufffd")),
    "reversed surrogates": ("page_title", r'"\ude00\ud83d"', (STORED, "\ufffd\ufffd")),
    "proper surrogates": ("page_title", r'"\ud83d\ude00"', (STORED, "😀")),
    "lone surrogate as session": ("session_id", r'"\udfff"', (STORED, "\ufffd")),
    "lone surrogates as path": ("page_path", r'"/\ud800"', (STORED, "/\ufffd")),
    "surrogate in an enum": ("device_type", r'"\ud83d"', (IGNORED, None)),
    "escaped NUL": ("browser", r'"a\u0000b"', (STORED, "a\0b")),
    "raw NUL": ("browser", '"a\0b"', (IGNORED, None)),
    "raw newline": ("browser", '"a\nb"', (STORED, "a\nb")),
    "a long text": ("browser", '"' + "x" * 64_000 + '"', (STORED, "x" * 64_000)),
    "int64 + 1": ("lcp", str(2**63), (STORED, 2.0**63)),
    "uint64 + 1": ("lcp", str(2**64), (STORED, 2.0**64)),
    "-int64 - 2": ("lcp", str(-(2**63) - 1), (STORED, -(2.0**63))),
    "2**53 + 1": ("lcp", str(2**53 + 1), (STORED, 2.0**53)),
    "10**308": ("lcp", str(10**308), (STORED, 1e308)),
    "10**309": ("lcp", str(10**309), (IGNORED, None)),
    "400 digits": ("lcp", "9" * 400, (IGNORED, None)),
    "5000 digits": ("lcp", "9" * 5000, (IGNORED, None)),
    "5000 digits of a fraction": ("lcp", "1." + "0" * 5000, (STORED, 1.0)),
    "1e999": ("lcp", "1e999", (IGNORED, None)),
    "1e-999": ("lcp", "1e-999", (STORED, 0.0)),
    "NaN": ("lcp", "NaN", (IGNORED, None)),
    "-Infinity": ("lcp", "-Infinity", (IGNORED, None)),
    "a boolean as number": ("lcp", "true", (IGNORED, None)),
    "a number as boolean": ("is_exit", "1", (IGNORED, None)),
    "a number as text": ("browser", "1", (IGNORED, None)),
    "400 digits as text": ("browser", "9" * 400, (IGNORED, None)),
    "an object as text": ("browser", '{"a": 1}', (IGNORED, None)),
    "a deep list as number": ("lcp", nested(900), (IGNORED, None)),
    "NaN in an unknown field": ("x", "NaN", (IGNORED, None)),
    "NaN deep in an unknown field": ("x", nested(400, "NaN"), (IGNORED, None)),
    "400 digits in an unknown field": ("x", '{"a": [' + "9" * 400 + "]}", (STORED, None)),
    "5000 digits in an unknown field": ("x", "9" * 5000, (STORED, None)),
    "1e999 in an unknown field": ("x", "1e999", (STORED, None)),
    "UTF-8 of a surrogate in an unknown field": ("x", '"\udced\udca0\udc80"', (IGNORED, None)),
    "a byte that is not UTF-8 in an unknown field": ("x", '"\udcff"', (IGNORED, None)),
    "a byte that is not UTF-8 in an unknown key": ("\udcff", "1", (IGNORED, None)),
    "01 in an unknown field": ("x", "01", (STORED, None)),
    "an unknown escape in an unknown field": ("x", r'"\q"', (IGNORED, None)),
    "2**100 in an unknown field": ("x", str(2**100), (STORED, None)),
    "depth 900 in an unknown field": ("x", nested(900), (STORED, None)),
    "depth 1022 in an unknown field": ("x", nested(1022), (STORED, None)),
    "depth 1030 in an unknown field": ("x", nested(1030), (IGNORED, None)),
    "depth 30000 in an unknown field": ("x", nested(30_000), (IGNORED, None)),
    "objects 900 deep": ("x", '{"a":' * 900 + "1" + "}" * 900, (STORED, None)),
    "5000 wide": ("x", "[" + ", ".join("1" for _ in range(5000)) + "]", (STORED, None)),
    "a key of 60000": ("k" * 60_000, "1", (STORED, None)),
    "a key that is a surrogate": (r"\ud83d", "1", (STORED, None)),
    "the name of one of our columns": ("event_time_raw", '"forged"', (STORED, None)),
    "another site's id": ("site_id", '"other"', (STORED, "demo")),
    "a time of receipt": ("received_at", "0", (STORED, EPOCH + timedelta(microseconds=NOON_US))),
    "a leap second": ("event_time", '"2016-12-31T23:59:60Z"', (STORED, None)),
    "the year 0": ("event_time", '"0000-01-01T00:00:00Z"', (STORED, None)),
    "the year 10000": ("event_time", '"9999-12-31T23:59:59-23:59"', (STORED, None)),
    "the year 0 by offset": ("event_time", '"0001-01-01T00:00:00+23:59"', (STORED, None)),
    "Arabic digits": ("event_time", '"\u0662\u0660\u0662\u0666-05-12T10:00:00Z"', (STORED, None)),
    "the year 1": ("event_time", '"0001-01-01T00:00:00Z"', (STORED, None)),
    "the year 9999": ("event_time", '"9999-12-31T23:59:59Z"', (STORED, None)),
    "no time at all": ("event_time", '""', (STORED, None)),
    "a number as time": ("event_time", "1778580000000", (IGNORED, None)),
    "a time": ("event_time", '"2026-05-12T12:00:00+02:00"', (STORED, datetime(2026, 5, 12, 10, tzinfo=UTC))),
}
"""Name to the field, its value as raw text, and the expected status and stored value."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Running]]:
    """One collector for all poison, because starting one takes longer than a test."""
    data_dir = tmp_path_factory.mktemp("poison") / "data"
    with asyncio.Runner() as runner, collector_of(runner, data_dir, "write") as collector:
        yield runner, collector


@pytest.mark.parametrize("name", POISON)
def test_known_poison_harms_no_other_event(served: tuple[asyncio.Runner, Running], name: str) -> None:
    runner, collector = served
    field, value, (status, stored) = POISON[name]
    poisoned = written({**plain(), field: value}.items())
    forget_events(collector)
    collector.clock.us = NOON_US - 1  # so that the poison is received at NOON_US
    before, found, after = runner.run(outcomes(collector, [body(), poisoned, body()]))
    assert [STORED, status, STORED] == [before[0], found[0], after[0]]
    assert None not in (before[1], after[1])
    assert stored == (found[1] or {}).get(field)


def test_one_segment_holds_all_valid_poison_and_the_rest_is_kept_as_rejected(tmp_path: Path) -> None:
    sent = [written({**plain(), field: value}.items()) for field, value, _ in POISON.values()]
    invalid = [b"", b"\0", b"[]", body()[:-1], body() + b"x", *(body() + wrong for wrong in NOT_UTF8)]
    with asyncio.Runner() as runner, collector_of(runner, tmp_path / "data") as collector:
        found = runner.run(outcomes(collector, sent + invalid))
    statuses = [status for status, _ in found]
    assert [status for _, _, (status, _) in POISON.values()] + [IGNORED] * len(invalid) == statuses
    assert statuses.count(IGNORED) == len(collector.rejected())
