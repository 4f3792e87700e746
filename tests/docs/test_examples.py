"""The examples of the docs, run as they stand: events, queries, configurations, command lines."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from collector.cli.main import _parser
from collector.config import SiteSettings
from collector.config_file import load
from collector.events import COLUMNS
from tests.docs.tables import PAGES, ROOT
from tests.support import config, event, running

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
GOLDEN = ROOT / "tests" / "golden"
READING = (ROOT / "docs" / "reading-files.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def every_block(language: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{path.name}-{number}")
        for path in PAGES
        for number, block in enumerate(blocks(path.read_text(), language))
    ]


@pytest.fixture
async def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three `cwv` events of a site whose name could be a number, in the folder where the pages expect them."""
    async with running(config(tmp_path / "data", {"007": {}})) as collector:
        for lcp in (1, 2, 3):
            browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
            assert 201 == (await collector.post(event(event_type="cwv", lcp=lcp), "007", browser)).status
        await collector.flush()
    monkeypatch.chdir(tmp_path)


def rows(query: str) -> list[Any]:
    found = duckdb.sql(query)
    assert found is not None
    return found.fetchall()


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("settings", "server", "admin"),
    [({}, 8080, 9090), ({"COLLECTOR__SERVER__PORT": "18080", "COLLECTOR__ADMIN__PORT": "19090"}, 18080, 19090)],
    ids=["defaults", "environment"],
)
def test_banner_of_make_run_has_the_ports(tmp_path: Path, settings: dict[str, str], server: int, admin: int) -> None:
    (tmp_path / "collector").symlink_to("/bin/true")
    ports = ("COLLECTOR__SERVER__PORT", "COLLECTOR__ADMIN__PORT")
    inherited = {name: value for name, value in os.environ.items() if name not in ports}
    banner = subprocess.run(
        ["make", "-o", ".venv/run.done", "run", f"BIN={tmp_path}"],
        cwd=ROOT,
        env=inherited | settings,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"  http://127.0.0.1:{server}/demo/\n" in banner
    assert f'  curl -i http://127.0.0.1:{server}/public/demo/analytics/collect -d \'{{"session_id": ' in banner
    assert f"Metrics: http://127.0.0.1:{admin}/metrics    Stop: Ctrl-C" in banner


@pytest.mark.parametrize("text", [README, MAKEFILE], ids=["README", "make run"])
async def test_example_event_of_readme_and_make_run_is_stored(tmp_path: Path, text: str) -> None:
    sent = re.search(r"""collect -d '(\{.*?\})'""", text, re.DOTALL)
    assert sent is not None
    data = sent[1].replace('\\"', '"')
    assert "pageview" == json.loads(data)["event_type"]
    async with running(config(tmp_path, {"demo": SiteSettings(allow_localhost=True).model_dump()})) as collector:
        assert 201 == (await collector.post(data.encode())).status


def test_query_of_the_readme_finds_every_event(dataset: None) -> None:
    (query,) = blocks(README, "sql")
    assert [("/pricing", "cwv", 3)] == rows(query)


def test_query_by_day_counts_every_event(dataset: None) -> None:
    query, _, _ = blocks(READING, "sql")
    assert [3] == [row[1] for row in rows(query)]


def test_query_of_visitors_counts_a_repeated_event_once(dataset: None) -> None:
    _, query, _ = blocks(READING, "sql")
    assert [(1, 1, 1)] == [row[1:] for row in rows(query)]


def test_merged_file_has_every_event(dataset: None) -> None:
    """The example's date is replaced by `*`, because these events are from today."""
    *_, statement = blocks(READING, "sql")
    duckdb.sql(re.sub("2026-05-12", "*", statement, count=1))
    assert [(3,)] == rows("SELECT count(*) FROM 'events-2026-05-12.parquet'")


def test_readers_find_every_event_and_column(dataset: None) -> None:
    """Polars, pandas and pyarrow each read the whole dataset with the page's expression."""
    tables = executed(*blocks(READING, "python"))
    assert 3 * [(3, len(COLUMNS) + len(("site", "date")))] == [table.shape for table in tables]
    assert 3 * [["007"] * 3] == [table["site"].to_pylist() for table in tables]


def executed(block: str) -> list[Any]:
    """The tables that the reading expressions of a Python block return, as Arrow's."""
    names: dict[str, Any] = {}
    tables = []
    for statement in ast.parse(block).body:
        if not isinstance(statement, ast.Expr):
            exec(ast.unparse(statement), names)
            continue
        read = eval(ast.unparse(statement), names)
        read = read.collect() if hasattr(read, "collect") else read
        for to_arrow in ("to_table", "to_arrow"):
            read = getattr(read, to_arrow)() if hasattr(read, to_arrow) else read
        tables.append(read if isinstance(read, pa.Table) else pa.Table.from_pandas(read))
    return tables


@pytest.mark.parametrize("layout", ["by-site", "by-date"])
async def test_parts_of_an_earlier_version_are_read_with_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """By every query and expression of the pages. The earlier parts have 66 columns, and no `bot`.

    Version 0.1 wrote them: 12 rows of two sites and days. A reader may open a new part first, or one of these.
    """
    partition_by = ["site", "date"] if layout == "by-site" else ["date"]
    googlebot = {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}
    settings = config(tmp_path / "data", {"demo": {}, "new": {}, "0": {}}, storage={"partition_by": partition_by})
    async with running(settings) as collector:
        for site in ("demo", "new", "0"):  # the first and the last folder are new ones
            assert 201 == (await collector.post(event(event_type="cwv", lcp=1), site, googlebot)).status
        await collector.flush()
    shutil.copytree(GOLDEN / "parts-66-columns" / layout, tmp_path / "data" / "events", dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def for_layout(block: str) -> str:
        if layout == "by-site":
            return block
        for part in ("'site': VARCHAR, ", '("site", pa.string()), ', '"site": pl.String, '):
            block = block.replace(part, "")
        return block.replace("/site=*", "")

    tables = executed(for_layout(*blocks(READING, "python")))
    assert 3 == len(tables)
    for table in tables:
        assert (15, len(COLUMNS) + len(partition_by)) == table.shape
        assert {column.name for column in COLUMNS} | {*partition_by} == {*table.column_names}
        assert {None: 12, "Googlebot": 3} == Counter(table["bot"].to_pylist())
        assert {"demo", "007", "new", "0"} == {*table["site_id"].to_pylist()}
        if layout == "by-site":
            assert table["site"].to_pylist() == table["site_id"].to_pylist()
    by_day, visitors, merge = blocks(READING, "sql")
    assert sum(row[1] for row in rows(for_layout(by_day))) == 7
    assert sum(row[3] for row in rows(for_layout(visitors))) == 12, "those of the bot are left out"
    duckdb.sql(for_layout(merge).replace("2026-05-12", "*", 1))
    assert [(15, 3)] == rows("SELECT count(*), count(bot) FROM 'events-2026-05-12.parquet'")
    (query,) = blocks(README, "sql")
    assert 15 == sum(row[2] for row in rows(for_layout(query)))


@pytest.mark.parametrize("block", every_block("toml"))
def test_configuration_is_valid(tmp_path: Path, block: str) -> None:
    """A page may show a part of a file: without a site, one is added."""
    file = tmp_path / "collector.toml"
    file.write_text(block if "[sites." in block else f"{block}\n[sites.example]\n")
    assert load(file).sites


@pytest.mark.parametrize("block", every_block("sh"))
def test_command_lines_can_be_parsed(block: str) -> None:
    for line in block.replace("\\\n", " ").splitlines():
        command = re.match(r"(?:sudo )?(?:[\w./-]+/)?collector ([a-z-]+ ?.*)", line)
        if command:
            arguments = shlex.split(command[1], comments=True)
            assert _parser(arguments).parse_args(arguments)


@pytest.mark.parametrize("block", every_block("sh"))
def test_make_targets_exist(block: str) -> None:
    for target in re.findall(r"^make ([a-z][\w-]*)", block, re.MULTILINE):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
