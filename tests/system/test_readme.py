"""The README's own words, run as they stand: its event, its query, its readers."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector.config import SiteSettings
from tests.support import config, event, running

README = (Path(__file__).parents[2] / "README.md").read_text()
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
async def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three `cwv` events of a site whose name could be a number, in the folder where the README expects them."""
    async with running(config(tmp_path / "data", {"007": {}})) as collector:
        for lcp in (1, 2, 3):
            assert 201 == (await collector.post(event(event_type="cwv", lcp=lcp), "007")).status
        await collector.flush()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("text", [README, MAKEFILE], ids=["README", "make run"])
async def test_event_that_a_newcomer_is_told_to_send_is_stored(tmp_path: Path, text: str) -> None:
    """From the page that shows it, to a site as the demo has it."""
    sent = re.search(r"""collect -d '(\{.*?\})'""", text, re.DOTALL)
    assert sent is not None
    data = sent[1].replace('\\"', '"')
    assert "pageview" == json.loads(data)["event_type"]
    async with running(config(tmp_path, {"demo": SiteSettings(allow_localhost=True).model_dump()})) as collector:
        assert 201 == (await collector.post(data.encode())).status


def test_query_counts_every_event(dataset: None) -> None:
    counted = duckdb.sql(f"SELECT sum(#2) FROM ({block('sql').rstrip().rstrip(';')})")
    assert counted is not None
    assert [(3,)] == counted.fetchall()


def test_readers_find_every_event_and_column(dataset: None) -> None:
    """Each expression of the page is the dataset, to Polars, pandas and pyarrow."""
    names: dict[str, Any] = {}
    shapes = []
    for statement in ast.parse(block("python")).body:
        if not isinstance(statement, ast.Expr):
            exec(ast.unparse(statement), names)
            continue
        read = eval(ast.unparse(statement), names)
        for whole in ("collect", "to_table"):
            read = getattr(read, whole)() if hasattr(read, whole) else read
        shapes.append(read.shape)
    assert 3 * [(3, 66 + len(("site", "date")))] == shapes
