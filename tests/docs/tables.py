"""The reference tables of the docs, made from the code: settings, metrics, commands, fields.

`python -m tests.docs.tables` (`make docs`) writes them into the pages, between `<!-- table: NAME -->` and
`<!-- end -->`. tests/docs/test_reference.py fails where a page differs.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from collector.cli.main import COMMANDS, module_of
from collector.config import Config, Section, SiteSettings
from collector.daemon.reload import applied_by_reload
from collector.daemon.wiring import build_stages
from collector.events import CONTRACT, Reason
from tests.support import FakeClock, config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """The page, with every marked table regenerated from the code."""
    return _MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", page)


def settings() -> str:
    sections: list[tuple[str, type[Section]]] = [
        (name, field.annotation)
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    ]
    sections.append(("sites.<id>", SiteSettings))
    return _table(
        ["setting", "default", "meaning", "change"],
        (
            [
                f"`{section}.{key}`",
                f"`{json.dumps(field.default, default=str)}`",
                field.description or "",
                "reload" if applied_by_reload(section.partition(".")[0], key) else "restart",
            ]
            for section, model in sections
            for key, field in model.model_fields.items()
        ),
    )


def metrics() -> str:
    return _table(["metric", "type", "labels", "meaning"], map(_metric, _families()))


def commands() -> str:
    return _table(["command", "what it does"], _commands())


def fields() -> str:
    required = CONTRACT["required"]
    return _table(
        ["field", "type", "rule"],
        (
            [f"`{name}`", _types(rule), ". ".join(_rules(rule, is_required=name in required))]
            for name, rule in CONTRACT["properties"].items()
        ),
    )


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "metrics": metrics,
    "commands": commands,
    "fields": fields,
}


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _families() -> list[Metric]:
    """The metrics of a new collector that has dropped one request, which gives that metric its labels."""
    with TemporaryDirectory() as folder:
        stages = build_stages(config(Path(folder)), FakeClock())
        stages.metrics.counts.of_unknown.count_dropped(Reason.METHOD)
        page = stages.metrics.snapshot({}, stages.gauges())().decode()
    return [family for family in text_string_to_metric_families(page) if family.name.startswith("collector_")]


def _metric(family: Metric) -> list[str]:
    name = family.name + ("_total" if family.type == "counter" else "")
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    return [f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), family.documentation]


def _commands() -> Iterator[list[str]]:
    for command, summary in COMMANDS.items():
        if summary is None:
            continue
        module = module_of(command)
        parser = argparse.ArgumentParser(prog=f"collector {command}", add_help=False)
        module.add_arguments(parser)
        usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
        yield [f"`{usage}`", parser.description or ""]


def _types(rule: dict[str, Any]) -> str:
    types = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    return " or ".join(types)


def _rules(rule: dict[str, Any], *, is_required: bool) -> Iterator[str]:
    if is_required:
        yield "required"
    if "minLength" in rule:
        yield f"at least {rule['minLength']} characters"
    if "maxLength" in rule:
        yield f"at most {rule['maxLength']} characters"
    if "enum" in rule:
        yield "one of " + ", ".join(f"`{value}`" for value in rule["enum"] if value is not None)
    if "description" in rule:
        yield rule["description"]


if __name__ == "__main__":
    for path in PAGES:
        text = path.read_text()
        if with_tables(text) != text:
            path.write_text(with_tables(text))
            print(f"{path.relative_to(ROOT)} is up to date now")
