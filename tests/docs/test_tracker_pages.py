"""Attributes, methods, types and fields in docs/tracker.md and docs/tracker-events.md, held against the code."""

import re
from collections.abc import Iterable

from collector.edge.script import types
from collector.events import CONTRACT
from tests.docs.tables import ROOT

TRACKER = (ROOT / "docs" / "tracker.md").read_text()
EVENTS = (ROOT / "docs" / "tracker-events.md").read_text()
OPTIONS = (ROOT / "tracker" / "src" / "options.ts").read_text()

PARTS_OF_FIELDS = {"_id", "_class", "_text"}
"""They stand for `click_element_id` and so on, behind `click_element_tag`."""


def cells(page: str, heading: str, column: int) -> list[str]:
    """The text of a column of the table below a heading."""
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [row.split("|")[column + 1] for row in rows[2:]]


def in_backticks(cells: Iterable[str]) -> list[str]:
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_attributes_are_those_that_the_script_reads() -> None:
    read = re.findall(r"\bdata\.(\w+)", OPTIONS) + re.findall(r'"(\w+)" in data', OPTIONS)
    names = {"data-" + re.sub("[A-Z]", lambda letter: f"-{letter[0].lower()}", name) for name in read}
    assert names == set(in_backticks(cells(TRACKER, "Attributes", 0)))


def test_methods_are_those_of_the_types() -> None:
    interface = types().split("interface CollectorMethods {")[1].split("\n}")[0]
    methods = set(re.findall(r"^  (\w+)\(", interface, re.MULTILINE))
    table = in_backticks(cells(TRACKER, "Call it from a page", 0))
    assert methods == {name.partition("(")[0] for name in table}
    assert f"`window.collector` has {len(methods)} methods." in TRACKER.replace("six", "6")


def test_types_are_those_of_the_contract() -> None:
    contract = CONTRACT["properties"]["event_type"]["enum"]
    assert sorted(contract) == sorted(in_backticks(cells(EVENTS, "Types", 0)))


def test_fields_are_those_of_the_contract() -> None:
    """Those in the table, those that are explained in bold, and every other name with an underscore."""
    table = in_backticks(cells(EVENTS, "Types", 2))
    explained = in_backticks(re.findall(r"\*\*(.*?)\*\*", EVENTS))
    others = [name for name in in_backticks([EVENTS]) if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)]
    named = {name for name in [*table, *explained, *others] if not name.startswith("data-")}
    assert len(table) > 40, "names are found"
    known = {*CONTRACT["properties"], *CONTRACT["properties"]["event_type"]["enum"], *PARTS_OF_FIELDS, "utm_*"}
    assert set() == named - known


def test_every_field_is_named() -> None:
    """An analyst finds each field of the contract on the page of events."""
    named = set(in_backticks([EVENTS]))
    named |= {f"click_element{part}" for part in PARTS_OF_FIELDS & named}
    assert set() == {name for name in CONTRACT["properties"] if name not in named and not name.startswith("utm_")}
