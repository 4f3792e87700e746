"""The command line, called in the test's own process: what it says, where, and with which exit code."""

import asyncio
import io
import json
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from collector import VERSION
from collector.cli.found import Found, below
from collector.cli.main import main
from collector.events import CONTRACT, CONTRACT_HASH
from collector.journal.record import HEADER_BYTES, Damage, Header, Record, encode_header, scan
from collector.parts.table import EVENT_SCHEMA
from tests.support import FakeClock, body, config, event, running

Capture = pytest.CaptureFixture[str]
GOOD = "[sites.demo]\n"


def run(*arguments: str | Path) -> int:
    """The exit code, also where argparse leaves by itself."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exc:
        return -1 if exc.code is None else int(exc.code)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "collector.toml"
    file.write_text(
        '[sites.shop]\nexcluded_paths = ["/admin/*"]\n[sites.off]\ntracking = false\n[sites.strict]\nstrict = true\n'
    )
    return file


def test_version_names_code_and_contract(capsys: Capture) -> None:
    assert run("--version") == 0
    assert (f"collector {VERSION}, contract {CONTRACT_HASH}\n", "") == capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--nonsense"],
        ["nonsense"],
        ["serve", "extra"],
        ["serve", "--config"],
        ["check-config"],
        ["check-config", "a", "b"],
        ["inspect"],
        ["inspect", ".", "--rows", "many"],
        ["schema"],
        ["schema", "--json", "--parquet"],
        ["validate", "--site"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_and_says_how(arguments: list[str], capsys: Capture) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    usage, *_, error = err.splitlines()
    assert ("", True, True) == (out, usage.startswith("usage: collector"), ": error: " in error)


@pytest.mark.parametrize("command", ["serve", "check-config", "validate", "inspect", "schema"])
def test_every_command_has_a_help(command: str, capsys: Capture) -> None:
    assert run(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: collector {command}")


def test_good_configuration_is_0(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    assert run("check-config", file) == 0
    assert (f"{file}: good; 1 sites\n", "") == capsys.readouterr()


# A file, and what is wrong in it: one line each.
BAD_CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "no sites": ("", ["sites: missing; at least one site is needed"]),
    "not TOML": ("[sites.demo", ["is not TOML: "]),
    "unknown key": ("[server]\nprot = 80\n" + GOOD, ["server.prot: unknown key; did you mean port?"]),
    "unknown section": ("[storag]\n" + GOOD, ["storag: unknown key; did you mean storage?"]),
    "wrong type": ('[server]\nport = "80"\n' + GOOD, ["server.port: should be an integer"]),
    "out of range": ("[server]\nport = 70000\n" + GOOD, ["server.port: should be less than or equal to 65535"]),
    "no table": ("server = 3\n" + GOOD, ["server: should be a table; got 3"]),
    "site id": ('[sites."../x"]\n', ["sites.../x: a site id should be"]),
    "network": (
        '[sites.demo]\nexcluded_ips = ["10.0.0.0/8", "300.1.1.1"]\n',
        ["sites.demo.excluded_ips.1: "],
    ),
    "all of it": (
        '[server]\nport = -1\nhost = 5\n[storage]\nflush_interval_s = "60"\npartition_by = ["date", "site"]\n'
        "[sites.demo]\ntracking = 1\nexcluded_path = []\n",
        [
            "server.port: should be greater than or equal to 0",
            "server.host: should be a string; got 5",
            "storage.flush_interval_s: should be a number",
            'storage.partition_by: should be ["site", "date"] or ["date"]',
            "sites.demo.tracking: should be a boolean; got 1",
            "sites.demo.excluded_path: unknown key; did you mean excluded_paths?",
        ],
    ),
    "line break in a value": ('[storage]\ncompression = "zs\\ntd"\n' + GOOD, ["storage.compression: should be "]),
    "line break in a key": ('[storage]\n"com\\npression" = "zstd"\n' + GOOD, ["storage.com"]),
    "line break in a site": ('[sites."a\\nb"]\n', ["sites.a"]),
}


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_bad_configuration_is_2_with_one_line_for_each_error(name: str, tmp_path: Path, capsys: Capture) -> None:
    text, said = BAD_CONFIGURATIONS[name]
    file = tmp_path / "bad.toml"
    file.write_text(text)
    assert run("check-config", file) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert ("", len(said)) == (out, len(lines)), err
    for words, line in zip(sorted(said), sorted(lines), strict=True):
        assert line.startswith(f"collector: {file}: {words}")


def test_configuration_that_is_not_there_is_2(tmp_path: Path, capsys: Capture) -> None:
    for path, why in ((tmp_path / "nothing.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        assert run("check-config", path) == 2
        assert ("", f"collector: {path}: cannot be read: {why}\n") == capsys.readouterr()


def test_bytes_that_are_no_text_are_2(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(b"\xff\xfe")
    assert run("check-config", file) == 2
    assert capsys.readouterr().err.startswith(f"collector: {file}: is not TOML: ")


def test_environment_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    monkeypatch.setenv("COLLECTOR__SERVER__PORT", "many")
    monkeypatch.setenv("COLLECTOR__SERVER__PROT", "80")
    assert run("check-config", file) == 2
    first, second = sorted(capsys.readouterr().err.splitlines())
    assert first.startswith("collector: COLLECTOR__SERVER__PORT: server.port: should be an integer")
    assert second.startswith("collector: COLLECTOR__SERVER__PROT: names no setting")


# One line of input, and what would become of it.
VERDICTS: tuple[tuple[bytes, str], ...] = (
    (body(), "stored"),
    (body(event_time="yesterday", unknown=[1]), "stored"),
    (b"{}", "invalid: Validation error: session_id is required"),
    (b"not json", "invalid: Validation error: body is not one JSON object"),
    (body(visitor_id="short"), "invalid: Validation error: visitor_id must have at least 8 characters"),
    (body(page_path="/admin/x"), "stored"),
    (b"\xff", "invalid: Validation error: body is not UTF-8"),
)


def test_validate_gives_each_line_of_a_file_its_verdict(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"\n".join(line for line, _ in VERDICTS))
    assert run("validate", file) == 1
    out, err = capsys.readouterr()
    for number, ((_, verdict), line) in enumerate(zip(VERDICTS, out.splitlines(), strict=True), 1):
        assert line.startswith(f"{number}: {verdict}")
    assert err == "3 of 7 events would be stored\n"


@pytest.mark.parametrize("arguments", [[], ["-"]], ids=["default", "dash"])
def test_validate_reads_standard_input(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Blank lines are no events, and count as lines; CR LF ends one as well as LF."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body() + b"\r\n\n  \n" + body() + b"\n")))
    assert run("validate", *arguments) == 0
    assert ("1: stored\n4: stored\n", "2 of 2 events would be stored\n") == capsys.readouterr()


def test_validate_of_nothing_is_0(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").touch()
    assert run("validate", tmp_path / "empty") == 0
    assert ("", "0 of 0 events would be stored\n") == capsys.readouterr()


@pytest.mark.parametrize(
    ("site", "changes", "code", "verdict"),
    [
        ("shop", {}, 0, "stored"),
        ("shop", {"page_path": "/admin/x?y"}, 1, "excluded_path: Page path is excluded"),
        ("shop", {"event_type": 5}, 1, "invalid: Validation error: event_type must be"),
        ("off", {}, 1, "tracking_disabled: Tracking is disabled for this site"),
        ("strict", {"event_type": 5}, 1, "invalid: Validation error: event_type must be"),
    ],
)
def test_validate_judges_by_the_settings_of_a_site(
    site: str, changes: dict[str, Any], code: int, verdict: str, config_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "events"
    file.write_bytes(body(**changes))
    assert run("validate", file, "--site", site, "--config", config_file) == code
    assert capsys.readouterr().out.startswith(f"1: {verdict}")


def test_validate_refuses_what_is_too_large_to_be_taken(tmp_path: Path, capsys: Capture) -> None:
    """The endpoint answers 413 beyond `max_body_bytes`, so such a line would not be stored."""
    file = tmp_path / "events"
    file.write_bytes(body(page_referrer="x" * 65_536))
    assert run("validate", file) == 1
    assert capsys.readouterr().out.startswith("1: too_large: ")


LARGEST = 65_536
BOM = b"\xef\xbb\xbf"


def sized(size_bytes: int) -> bytes:
    """A valid event of that size."""
    return body(page_referrer="x" * (size_bytes - len(body(page_referrer=""))))


# What is in a file, and what is said of its lines.
FILES: dict[str, tuple[bytes, list[str]]] = {
    "largest with LF": (sized(LARGEST) + b"\n", ["1: stored"]),
    "largest with CR LF": (sized(LARGEST) + b"\r\n", ["1: stored"]),
    "largest without either": (sized(LARGEST), ["1: stored"]),
    "largest behind a byte order mark": (BOM + sized(LARGEST) + b"\n", ["1: stored"]),
    "a byte more": (sized(LARGEST + 1) + b"\n" + body(), ["1: too_large: ", "2: stored"]),
    "a byte more at the end": (body() + b"\n" + sized(LARGEST + 1), ["1: stored", "2: too_large: "]),
    "a blank too many": (sized(LARGEST) + b" \r\n", ["1: too_large: "]),
    "CR that ends no line": (sized(LARGEST) + b"\r", ["1: too_large: "]),
    "many times the largest": (sized(10 * LARGEST + 7) + b"\n" + body(), ["1: too_large: ", "2: stored"]),
    "blank lines": (b"\n\r\n" + body() + b"\n \t \n\n{}\n\n", ["3: stored", "6: invalid: "]),
    "a blank line without end": (b" " * (3 * LARGEST) + b"\n" + body(), ["2: stored"]),
    "a byte order mark and nothing": (BOM, []),
    "a byte order mark alone in its line": (BOM + b"\n" + body(), ["2: stored"]),
    "two files that were joined": (BOM + body() + b"\n" + BOM + body(), ["1: stored", "2: stored"]),
    "half a byte order mark": (BOM[:2], ["1: invalid: Validation error: body is not UTF-8"]),
    "UTF-16": (body().decode().encode("utf-16"), ["1: invalid: Validation error: body is not UTF-8"]),
    "junk": (bytes(range(11, 256)) * 2, ["1: invalid: Validation error: body is not UTF-8"]),
    "NULs": (bytes(100), ["1: invalid: Validation error: body is not one JSON object"]),
}


@pytest.mark.parametrize("name", FILES)
def test_validate_says_of_each_line_what_http_says_of_a_body(name: str, tmp_path: Path, capsys: Capture) -> None:
    """Its number is that in an editor; the byte order mark is the file's, and what ends a line is no part of it."""
    data, said = FILES[name]
    (tmp_path / "events").write_bytes(data)
    stored = sum(": stored" in line for line in said)
    assert (0 if stored == len(said) else 1) == run("validate", tmp_path / "events")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(said) == len(lines)
    assert all(line.startswith(words) for line, words in zip(lines, said, strict=True)), lines
    assert f"{stored} of {len(said)} events would be stored\n" == err


def test_validate_lists_every_error_of_a_strict_site(config_file: Path, tmp_path: Path, capsys: Capture) -> None:
    """As its 422 does; other sites hear of the first alone, and either way it is one event."""
    (tmp_path / "events").write_bytes(b'\n{"visitor_id": "short", "lcp": "fast"}\n' + body())
    errors = [
        "session_id is required",
        "event_type is required",
        "page_path is required",
        "event_time is required",
        "visitor_id must have at least 8 characters",
        "lcp must be a number or null",
    ]
    assert 1 == run("validate", tmp_path / "events", "--site", "strict", "--config", config_file)
    out, err = capsys.readouterr()
    *refused, stored = out.splitlines()
    assert sorted(f"2: invalid: Validation error: {error}" for error in errors) == sorted(refused)
    assert ("3: stored", "1 of 2 events would be stored\n") == (stored, err)
    assert 1 == run("validate", tmp_path / "events", "--site", "shop", "--config", config_file)
    assert 2 == len(capsys.readouterr().out.splitlines())


def test_validate_holds_no_line_that_is_too_large(tmp_path: Path, capsys: Capture) -> None:
    """100 MB without a line end take no more memory than the largest event."""
    file = tmp_path / "events"
    with file.open("wb") as sparse:
        sparse.truncate(100_000_000)
    tracemalloc.start()
    try:
        assert 1 == run("validate", file)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 10_000_000
    assert capsys.readouterr().out.startswith("1: too_large: ")


def test_validate_of_a_folder_is_1(tmp_path: Path, capsys: Capture) -> None:
    assert run("validate", tmp_path) == 1
    assert ("", f"collector: {tmp_path}: cannot be read: Is a directory\n") == capsys.readouterr()


def test_name_that_is_no_text_is_told_on_one_line(capsys: Capture) -> None:
    assert run("validate", "no\nsuch\udcff\x1b[2J") == 1
    assert (
        "",
        "collector: no\\nsuch\\udcff\\x1b[2J: cannot be read: No such file or directory\n",
    ) == capsys.readouterr()


def test_validate_says_what_it_lacks(config_file: Path, tmp_path: Path, capsys: Capture) -> None:
    nothing = tmp_path / "nothing"
    assert run("validate", nothing) == 1
    assert ("", f"collector: {nothing}: cannot be read: No such file or directory\n") == capsys.readouterr()
    assert run("validate", nothing, "--site", "nosuch", "--config", config_file) == 2
    assert ("", f"collector: {config_file}: has no site nosuch\n") == capsys.readouterr()
    assert run("validate", nothing, "--site", "shop", "--config", nothing) == 2
    assert ("", f"collector: {nothing}: cannot be read: No such file or directory\n") == capsys.readouterr()


def test_validate_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events").write_bytes(body() + b"\n{}\n")
    (tmp_path / "collector.toml").write_text(GOOD)
    assert run("validate", "events", "--site", "demo") == 1
    assert ["collector.toml", "events"] == sorted(path.name for path in tmp_path.iterdir())


def test_schema_is_the_contract_or_the_columns(capsys: Capture) -> None:
    assert run("schema", "--json") == 0
    assert json.loads(capsys.readouterr().out) == CONTRACT
    assert run("schema", "--parquet") == 0
    assert [f"{field.name}: {field.type}" for field in EVENT_SCHEMA] == capsys.readouterr().out.splitlines()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two flushes: three events of `demo` and one of `blog`, then one of `demo` and one that was rejected."""
    folder = tmp_path / "data"
    clock = FakeClock()

    async def write() -> None:
        async with running(config(folder, {"demo": {}, "blog": {}}), clock) as collector:
            for n in range(3):
                assert (await collector.post(event(session_id=f"s-{n}"))).status == 201
                clock.advance(60)
            assert (await collector.post(event(session_id="b-0"), site="blog")).status == 201
            await collector.flush()
            clock.advance(86_400)
            assert (await collector.post(event(session_id="s-3"))).status == 201
            clock.advance(60)
            assert (await collector.post({"visitor_id": "rejected"})).status == 202
            await collector.flush()

    asyncio.run(write())
    return folder


def table(out: str) -> dict[str, list[str]]:
    """The lines of the table by their first word."""
    return {words[0]: words[1:] for words in map(str.split, out.splitlines()) if words}


def test_inspect_of_a_data_dir_counts_every_folder(data_dir: Path, capsys: Capture) -> None:
    assert run("inspect", data_dir) == 0
    out, err = capsys.readouterr()
    rows = table(out)
    assert ["1", "3", "2026-05-28", "20:26:40", "2026-05-28", "20:28:40", "good"] == [
        *rows["events/site=demo/date=2026-05-28"][:2],
        *rows["events/site=demo/date=2026-05-28"][4:],
    ]
    assert {
        "events/site=blog/date=2026-05-28": ["1", "1"],
        "events/site=demo/date=2026-05-28": ["1", "3"],
        "events/site=demo/date=2026-05-29": ["1", "1"],
        "rejected/site=demo/date=2026-05-29": ["1", "1"],
    } == {folder: words[:2] for folder, words in rows.items() if "/" in folder}
    assert (["4", "6", "good"], "") == ([*rows["all"][:2], rows["all"][-1]], err)


def test_inspect_of_one_part(data_dir: Path, capsys: Capture) -> None:
    (part,) = (data_dir / "events" / "site=blog").rglob("*.parquet")
    assert run("inspect", part) == 0
    assert ["1", "1"] == table(capsys.readouterr().out)["all"][:2]


def test_inspect_prints_the_newest_events(data_dir: Path, capsys: Capture) -> None:
    """As many as were asked for, whatever parts they are in, and no rejected ones."""
    assert run("inspect", data_dir, "--rows", "3") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert {"s-3", "b-0", "s-2"} == {row["session_id"] for row in shown}


def test_inspect_shows_the_newest_rows_of_a_part_without_nulls(data_dir: Path, capsys: Capture) -> None:
    (part,) = (data_dir / "events" / "site=demo" / "date=2026-05-28").iterdir()
    assert run("inspect", part, "--rows", "2") == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert ["s-1", "s-2"] == [row["session_id"] for row in shown]
    assert {"site_id": "demo", "page_path": "/pricing", "event_time": "2026-05-12 10:00:00+00:00"}.items() <= shown[
        0
    ].items()
    assert all(None not in row.values() for row in shown)


def _cut(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-5])


def _empty(part: Path) -> None:
    part.write_bytes(b"")


def _flip(part: Path) -> None:
    """One bit of a session id: the part can be read, and only a page's checksum tells."""
    found = pq.read_metadata(part).row_group(0).column(EVENT_SCHEMA.get_field_index("session_id"))
    data = bytearray(part.read_bytes())
    data[found.data_page_offset - 1] ^= 1  # the end of the dictionary's page, before the first page of data
    part.write_bytes(data)
    assert pq.ParquetFile(part).read()["session_id"].to_pylist() != ["s-0", "s-1", "s-2"]


def _fewer_rows(part: Path) -> None:
    """A part that was written over: its footer promises more than it holds."""
    found = pq.ParquetFile(part).read()
    pq.write_table(found.slice(1), part)


def _foreign(part: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), part)


@pytest.mark.parametrize("damage", [_cut, _empty, _flip, _fewer_rows, _foreign])
def test_inspect_of_a_broken_part_is_1_and_says_which(damage: Any, data_dir: Path, capsys: Capture) -> None:
    """The other parts are shown all the same."""
    (part,) = (data_dir / "events" / "site=demo" / "date=2026-05-28").iterdir()
    damage(part)
    for path in (part, data_dir):
        assert run("inspect", path) == 1
        out, err = capsys.readouterr()
        (line,) = err.splitlines()
        assert line.startswith(f"broken: {part}: ")
        assert "1 broken" in out
    assert ["1", "1"] == table(out)["events/site=blog/date=2026-05-28"][:2]


def test_inspect_passes_over_what_a_collector_removes_meanwhile(
    data_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A released segment, a part of a day that is over: neither is broken."""
    (part,) = (data_dir / "events" / "site=demo" / "date=2026-05-28").iterdir()
    segment = data_dir / "journal" / "0" / "20260528T202640Z-0123456789abcdef.segment"
    segment.parent.mkdir(parents=True, exist_ok=True)
    segment.touch()
    inspect = import_module("collector.cli.inspect")

    def listed_before(path: Path, passes: Callable[[str], bool]) -> Found:
        found = below(path, passes)
        part.unlink()
        segment.unlink()
        return found

    monkeypatch.setattr(inspect, "below", listed_before)
    assert run("inspect", data_dir) == 0
    out, err = capsys.readouterr()
    assert ("", False) == (err, "events/site=demo/date=2026-05-28" in table(out))
    assert "events/site=blog/date=2026-05-28" in table(out)


def test_inspect_finishes_a_segment_that_is_released_while_it_is_read(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = tmp_path / "20260528T202640Z-0123456789abcdef.segment"
    segment.write_bytes(encode_header(Header("0123456789abcdef", by_site=True)))

    def released(file: BinaryIO, segment_id: str) -> Iterator[Record | Damage]:
        segment.unlink()
        return scan(file, segment_id)

    monkeypatch.setattr(import_module("collector.cli.inspect"), "scan", released)
    assert run("inspect", tmp_path) == 0
    assert ["1", "0", f"{HEADER_BYTES}"] == table(capsys.readouterr().out)["all"][:3]


def test_inspect_of_what_is_not_there_is_1(tmp_path: Path, capsys: Capture) -> None:
    assert run("inspect", tmp_path / "nothing") == 1
    assert ("", f"collector: {tmp_path / 'nothing'}: no such file or folder\n") == capsys.readouterr()


def test_inspect_of_an_empty_folder_finds_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert run("inspect", tmp_path) == 0
    out, err = capsys.readouterr()
    assert (["0", "0"], "") == (table(out)["all"][:2], err)


def test_inspect_takes_any_name_of_a_folder(data_dir: Path, capsys: Capture) -> None:
    """Square brackets are no markup."""
    (data_dir.parent / "[").mkdir()
    data_dir.rename(data_dir.parent / "[" / "bold]")
    assert run("inspect", data_dir.parent) == 0
    assert "[/bold]/events/site=blog/date=2026-05-28" in table(capsys.readouterr().out)
