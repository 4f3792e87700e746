"""The house's own rules: what the README must tell of settings, metrics and commands."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.cli.main import main
from collector.config import Config, Section, SiteSettings
from collector.daemon.wiring import build_stages
from collector.events import Reason
from tests.support import FakeClock, config

README = (Path(__file__).parent.parent / "README.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in README.splitlines() if line[:1] == "|"
]


def first_cells(form: str) -> set[str]:
    """What stands first in the rows of the README's tables, where it has that form."""
    return {match[1] for row in ROWS if (match := re.match(form, row[0]))}


def settings() -> list[list[str]]:
    """The rows that the table of settings must have."""
    sections: list[tuple[str, type[Section]]] = [
        (name, field.annotation)
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    ]
    sections.append(("sites.<id>", SiteSettings))
    return [
        [f"`{section}.{key}`", f"`{json.dumps(field.default, default=str)}`", field.description or ""]
        for section, model in sections
        for key, field in model.model_fields.items()
    ]


@pytest.mark.parametrize("row", settings(), ids=lambda row: row[0].strip("`"))
def test_readme_has_the_setting_its_default_and_its_meaning(row: list[str]) -> None:
    assert row[2]
    assert row in ROWS


def test_readme_has_no_other_settings() -> None:
    assert {row[0].strip("`") for row in settings()} == first_cells(r"`((?!collector)[a-z_]+\.[a-z0-9_.<>]+)`$")


def test_readme_has_every_metric_and_no_other(tmp_path: Path) -> None:
    stages = build_stages(config(tmp_path), FakeClock())
    stages.metrics.of_unknown.count_dropped(Reason.METHOD)
    page = stages.metrics.snapshot({}, stages.gauges())().decode()
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(page)
        if family.name.startswith("collector_")
    }
    assert names == first_cells(r"`(collector_\w+)`$")


def test_readme_has_every_command_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = set(re.findall(r"^    ([a-z][a-z-]*)(?: |$)", capsys.readouterr().out, re.MULTILINE))
    assert {"serve", "check-config", "validate", "inspect", "schema"} <= commands
    assert commands == first_cells(r"`collector ([a-z-]+)")


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ABORTED])
def test_readme_has_the_reason_of_every_answer(reason: Reason) -> None:
    """`aborted` is no answer: there is nobody left to hear it."""
    assert [row for row in ROWS if row[-1] == f"`{reason.value}`"]
