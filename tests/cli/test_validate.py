"""`collector validate`: the outcome of each line is that of the same body over HTTP."""

import io
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from collector.wording import count
from tests.cli.in_process import Capture, run
from tests.support import body


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "collector.toml"
    file.write_text(
        '[sites.shop]\nexcluded_paths = ["/admin/*"]\n[sites.off]\ntracking = false\n[sites.strict]\nstrict = true\n'
    )
    return file


# A line of input, and its outcome.
OUTCOMES: tuple[tuple[bytes, str], ...] = (
    (body(), "stored"),
    (body(event_time="yesterday", unknown=[1]), "stored"),
    (b"{}", "invalid: Validation error: session_id is required"),
    (b"not json", "invalid: Validation error: body is not one JSON object"),
    (body(visitor_id="short"), "invalid: Validation error: visitor_id must have at least 8 characters"),
    (body(page_path="/admin/x"), "stored"),
    (b"\xff", "invalid: Validation error: body is not UTF-8"),
)


def test_validate_prints_the_outcome_of_each_line(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"\n".join(line for line, _ in OUTCOMES))
    assert run("validate", file) == 1
    out, err = capsys.readouterr()
    for number, ((_, outcome), line) in enumerate(zip(OUTCOMES, out.splitlines(), strict=True), 1):
        assert line.startswith(f"{number}: {outcome}")
    assert err == "3 of 7 events would be stored\n"


@pytest.mark.parametrize("arguments", [[], ["-"]], ids=["default", "dash"])
def test_validate_reads_standard_input(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """Blank lines count as lines but not as events. A line ends with LF or CR LF."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body() + b"\r\n\n  \n" + body() + b"\n")))
    assert run("validate", *arguments) == 0
    assert ("1: stored\n4: stored\n", "2 of 2 events would be stored\n") == capsys.readouterr()


def test_validate_of_an_empty_file_exits_0(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").touch()
    assert run("validate", tmp_path / "empty") == 0
    assert ("", "0 of 0 events would be stored\n") == capsys.readouterr()


@pytest.mark.parametrize(
    ("site", "changes", "code", "outcome"),
    [
        ("shop", {}, 0, "stored"),
        ("shop", {"page_path": "/admin/x?y"}, 1, "excluded_path: Page path is excluded"),
        ("shop", {"event_type": 5}, 1, "invalid: Validation error: event_type must be"),
        ("off", {}, 1, "tracking_disabled: Tracking is disabled for this site"),
        ("strict", {"event_type": 5}, 1, "invalid: Validation error: event_type must be"),
    ],
)
def test_validate_applies_the_settings_of_a_site(
    site: str, changes: dict[str, Any], code: int, outcome: str, config_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "events"
    file.write_bytes(body(**changes))
    assert run("validate", file, "--site", site, "--config", config_file) == code
    assert capsys.readouterr().out.startswith(f"1: {outcome}")


def test_validate_reports_oversized_events(tmp_path: Path, capsys: Capture) -> None:
    """The endpoint responds 413 to a body larger than `max_body_bytes`, so such a line would not be stored."""
    file = tmp_path / "events"
    file.write_bytes(body(page_referrer="x" * 65_536))
    assert run("validate", file) == 1
    assert capsys.readouterr().out.startswith("1: too_large: ")


LARGEST = 65_536
BOM = b"\xef\xbb\xbf"


def sized(size_bytes: int) -> bytes:
    """A valid event of this size."""
    return body(page_referrer="x" * (size_bytes - len(body(page_referrer=""))))


# The content of a file, and the start of each line of output.
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
    "an event behind more blanks than the largest": (
        b" " * (3 * LARGEST) + body() + b"\n" + body(),
        ["1: too_large: ", "2: stored"],
    ),
    "a byte order mark and nothing": (BOM, []),
    "a byte order mark alone in its line": (BOM + b"\n" + body(), ["2: stored"]),
    "two files that were joined": (BOM + body() + b"\n" + BOM + body(), ["1: stored", "2: stored"]),
    "half a byte order mark": (BOM[:2], ["1: invalid: Validation error: body is not UTF-8"]),
    "UTF-16": (body().decode().encode("utf-16"), ["1: invalid: Validation error: body is not UTF-8"]),
    "junk": (bytes(range(11, 256)) * 2, ["1: invalid: Validation error: body is not UTF-8"]),
    "NULs": (bytes(100), ["1: invalid: Validation error: body is not one JSON object"]),
}


@pytest.mark.parametrize("name", FILES)
def test_validate_splits_a_file_into_bodies(name: str, tmp_path: Path, capsys: Capture) -> None:
    """Lines are numbered as in an editor. Line ends and the byte order mark of the file are not part of a body."""
    data, expected = FILES[name]
    (tmp_path / "events").write_bytes(data)
    stored = sum(": stored" in line for line in expected)
    assert (0 if stored == len(expected) else 1) == run("validate", tmp_path / "events")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(expected) == len(lines)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True)), lines
    assert f"{stored} of {count(len(expected), 'event')} would be stored\n" == err


def test_validate_lists_every_error_of_a_strict_site(config_file: Path, tmp_path: Path, capsys: Capture) -> None:
    """A strict site's 422 lists every error; other sites get only the first. Either way it is one event."""
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


def test_validate_does_not_keep_an_oversized_line_in_memory(tmp_path: Path, capsys: Capture) -> None:
    """A line of 100 MB takes less than 10 MB."""
    file = tmp_path / "events"
    with file.open("wb") as sparse:
        sparse.truncate(100_000_000)
    tracemalloc.start()
    try:
        assert 1 == run("validate", file)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000_000
    assert capsys.readouterr().out.startswith("1: too_large: ")


def test_validate_of_a_folder_exits_1(tmp_path: Path, capsys: Capture) -> None:
    assert run("validate", tmp_path) == 1
    assert ("", f"collector: {tmp_path}: cannot be read: Is a directory\n") == capsys.readouterr()


def test_odd_file_name_is_escaped_on_one_line(capsys: Capture) -> None:
    assert run("validate", "no\nsuch\udcff\x1b[2J") == 1
    assert (
        "",
        "collector: no\\nsuch\\udcff\\x1b[2J: cannot be read: No such file or directory\n",
    ) == capsys.readouterr()


def test_validate_names_a_missing_file_site_or_config(config_file: Path, tmp_path: Path, capsys: Capture) -> None:
    nothing = tmp_path / "nothing"
    assert run("validate", nothing) == 1
    assert ("", f"collector: {nothing}: cannot be read: No such file or directory\n") == capsys.readouterr()
    assert run("validate", nothing, "--site", "nosuch", "--config", config_file) == 2
    assert ("", f"collector: {config_file}: has no [sites.nosuch] section\n") == capsys.readouterr()
    assert run("validate", nothing, "--site", "shop", "--config", nothing) == 2
    assert ("", f"collector: {nothing}: cannot be read: No such file or directory\n") == capsys.readouterr()


def test_validate_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events").write_bytes(body() + b"\n{}\n")
    (tmp_path / "collector.toml").write_text("[sites.demo]\n")
    assert run("validate", "events", "--site", "demo") == 1
    assert ["collector.toml", "events"] == sorted(path.name for path in tmp_path.iterdir())
