"""`collector schema`: the contract, or the columns of a part."""

import json

from collector.events import CONTRACT
from collector.parts.table import EVENT_SCHEMA
from tests.cli.in_process import Capture, run


def test_schema_prints_the_contract_or_the_columns(capsys: Capture) -> None:
    assert run("schema", "--json") == 0
    assert json.loads(capsys.readouterr().out) == CONTRACT
    assert run("schema", "--parquet") == 0
    assert [f"{field.name}: {field.type}" for field in EVENT_SCHEMA] == capsys.readouterr().out.splitlines()
