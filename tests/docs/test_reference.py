"""What the docs say of settings, metrics, commands, fields and responses, compared with the code; and their links."""

import itertools
import re
from pathlib import Path

import pytest

from collector import VERSION
from collector.daemon.reload import APPLIED_BY_RELOAD
from collector.events import Reason
from tests.docs.tables import PAGES, ROOT, TABLES, with_tables

README = (ROOT / "README.md").read_text()
MADE = ("dist/", "bench/results/quick/")
"""Folders that `make` creates."""

DATA = ("data/", "events/", "events-until-2026-05/", "journal/0/", "quarantine/", "rejected/", "staging/")
"""Folders that a running collector, or its operator, creates in `data_dir`."""

FILE_OR_FOLDER = (".py", ".md", ".toml", ".json", ".yml", "/")
"""A name with a slash that ends in one of these is a path of this repository, and never an expression."""

RESPONSES = (ROOT / "docs" / "sending-events.md").read_text()
GOLDEN = (ROOT / "tests" / "golden" / "responses.txt").read_text()


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_tables_are_those_of_the_code(path: Path) -> None:
    """`make docs` writes them."""
    text = path.read_text()
    assert with_tables(text) == text


def test_each_table_is_in_one_page() -> None:
    marked = [table for path in PAGES for table in re.findall(r"<!-- table: (\w+) -->", path.read_text())]
    assert sorted(TABLES) == sorted(marked)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_no_cell_of_the_last_columns_is_empty(table: object) -> None:
    """A setting without a description, a metric without HELP, a command without a summary."""
    assert callable(table)
    rows = table().splitlines()[2:]
    assert rows
    if table is not TABLES["fields"]:
        assert [row for row in rows if re.search(r"\| +\|$", row)] == []


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ABORTED])
def test_table_of_responses_has_every_reason(reason: Reason) -> None:
    """`aborted` has no response: the client has left."""
    assert re.search(rf"^\|.*\| `{reason.value}` \|$", RESPONSES, re.MULTILINE)


def test_table_of_responses_is_that_of_the_golden_responses() -> None:
    """Each pair of status and reason. Preflights, health checks, pixels and files are not in the table."""
    documented = re.findall(r"^\| (\d{3})\b.*\| (?:`(\w+)` )?\|$", RESPONSES, re.MULTILINE)
    golden = [
        (status, reason[0] if (reason := re.findall(r"^< Collect-Reason: (\w+)$", text, re.MULTILINE)) else "")
        for status, text in re.findall(
            r"^=== (\d{3}) (?!preflight|health|pixel|script|demo)(.*?)(?=^===|\Z)", GOLDEN, re.DOTALL | re.MULTILINE
        )
    ]
    assert set(documented) == set(golden)


def test_readme_is_one_page() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900


def test_newest_release_of_the_changelog_is_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert VERSION == re.findall(r"^## \[(\d.*)\] - \d{4}-\d{2}-\d{2}$", changelog, re.MULTILINE)[0]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text()), target


def anchors(page: str) -> set[str]:
    """The anchors that GitHub derives from headings."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_paths_that_a_page_names_exist(path: Path) -> None:
    """Of this repository, in backticks. `edge/decide.py` may stand for `collector/edge/decide.py`."""
    for named in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", path.read_text()):
        if named.startswith(MADE + DATA):
            continue
        bases = [ROOT, ROOT / "collector", ROOT / "tests"]
        if named.endswith(FILE_OR_FOLDER) or any((base / named.partition("/")[0]).is_dir() for base in bases):
            assert any((base / named).exists() for base in bases), named


def test_readme_links_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)\)", README))
    assert {path.name for path in PAGES[1:]} <= linked


def test_example_configuration_names_what_a_reload_applies() -> None:
    lines = itertools.takewhile(
        lambda line: line.startswith("#"), (ROOT / "systemd" / "collector.example.toml").read_text().splitlines()
    )
    words = set(" ".join(lines).replace(",", "").split())
    assert {setting for _, setting in APPLIED_BY_RELOAD} <= words
