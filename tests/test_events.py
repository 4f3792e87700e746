"""The contract and its columns, compared with an independent copy of the contract page in tests/ingest/oracle.py."""

import sys
from pathlib import Path
from typing import Any

import pytest

from collector.cli.main import main
from collector.events import COLUMNS, CONTRACT, FIELDS, FieldError, Kind, Reason
from collector.parts.table import EVENT_SCHEMA
from tests.ingest import oracle

GOLDEN = Path(__file__).parent / "golden" / "arrow-schema.txt"


def rule_of(field: oracle.Field) -> dict[str, Any]:
    """A field of the page as a JSON Schema rule."""
    rule: dict[str, Any] = {"type": field.types if len(field.types) > 1 else field.types[0]}
    if field.values:
        rule["enum"] = [*field.values, None] if "null" in field.types else field.values
    if field.shortest:
        rule["minLength"] = field.shortest
    if field.longest < sys.maxsize:
        rule["maxLength"] = field.longest
    return rule


def test_contract_has_the_fields_and_rules_of_the_page_in_order() -> None:
    assert 61 == len(oracle.FIELDS)
    rules = {
        name: {key: value for key, value in rule.items() if key not in ("description", "x-column")}
        for name, rule in CONTRACT["properties"].items()
    }
    assert [(field.name, rule_of(field)) for field in oracle.FIELDS] == list(rules.items())


def test_contract_requires_the_same_fields_as_the_page() -> None:
    assert [field.name for field in oracle.FIELDS if field.required] == CONTRACT["required"]
    assert "object" == CONTRACT["type"]
    assert {"$schema", "title", "description", "type", "required", "properties"} == set(CONTRACT)


def test_columns_are_site_and_receipt_then_the_fields_then_the_collectors_own() -> None:
    fields = [(field.name, "timestamp" if field.name == "event_time" else field.types[0]) for field in oracle.FIELDS]
    expected = [
        ("site_id", "string"),
        ("received_at", "timestamp"),
        *fields,
        ("event_time_raw", "string"),
        ("client_ip", "string"),
        ("user_agent", "string"),
        ("bot", "string"),
    ]
    assert expected == [(column.name, column.kind.value) for column in COLUMNS]
    assert fields == [(column.name, column.kind.value) for column in FIELDS]


def test_arrow_type_follows_the_kind_and_every_column_is_nullable() -> None:
    types = {
        Kind.STRING: "string",
        Kind.NUMBER: "double",
        Kind.BOOLEAN: "bool",
        Kind.TIMESTAMP: "timestamp[us, tz=UTC]",
    }
    assert [(column.name, types[column.kind], True) for column in COLUMNS] == [
        (field.name, str(field.type), field.nullable) for field in EVENT_SCHEMA
    ]


def test_schema_of_parts_matches_the_golden_file(capsys: pytest.CaptureFixture[str]) -> None:
    """To change the schema on purpose, run `collector schema --parquet > tests/golden/arrow-schema.txt`."""
    assert 0 == main(["schema", "--parquet"])
    assert GOLDEN.read_text() == capsys.readouterr().out


def test_reasons_are_the_documented_ones() -> None:
    expected = (
        "invalid tracking_disabled excluded_ip excluded_path localhost unknown_site origin_not_allowed method timeout "
        "too_large encoding aborted internal rate_limited unavailable not_found unauthorized opted_out bot"
    )
    assert set(expected.split()) == {reason.value for reason in Reason}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Validation error: lcp must be a number", FieldError("lcp", "must be a number")),
        ("Validation error: body is not UTF-8", FieldError(None, "is not UTF-8")),
    ],
)
def test_error_names_the_field_then_the_rule(message: str, error: FieldError) -> None:
    assert message == str(error)
