"""The two forms of the hot modules: `make test` runs these tests over both, and says which by COMPILED."""

import ast
import os
import re
from importlib import import_module
from pathlib import Path

import collector
from collector.build import CODE

ROOT = Path(__file__).parents[2]

# The modules of edge/, ingest/ and journal/, and those that the compiled ones import, that are not compiled, and why.
INTERPRETED = {
    "config": "once a process, or a reload",
    "sender_keys": "a hash",
    "metrics": "subclasses of prometheus_client's classes",
    "threads": "once a commit",
    "edge/batch": "a slice of a batch; the rest of its time is in compiled modules",
    "edge/batch_answer": "once a batch",
    "edge/connection_limit": "once a connection",
    "edge/content_coding": "zlib",
    "edge/demo": "once a process",
    "edge/exchange": "standard path; subclasses of aiohttp's classes",
    "edge/files": "the script and the demo",
    "edge/forwarded": "once a value of the header",
    "edge/framing": "standard path",
    "edge/invalid_events": "invalid events",
    "edge/negotiation": "the script and the demo",
    "edge/openapi": "admin pages",
    "edge/ops": "admin pages",
    "edge/outcomes": "refusals",
    "edge/pixel": "one event in thousands",
    "edge/refusal": "bad heads",
    "edge/rules": "holds objects, and runs nothing",
    "edge/script": "once a process",
    "edge/server": "once a process, or a connection",
    "edge/shared": "holds objects, and runs nothing",
    "edge/split": "a piece of a batch",
    "edge/standard_path": "standard path; aiohttp",
    "ingest/bots": "once a user agent",
    "ingest/daily_key": "once a day",
    "ingest/sender": "events with a key",
    "journal/answers": "batches with a key; SQLite",
    "journal/layout": "once a process",
    "journal/segment": "once a commit",
    "parts/encoding": "once a part",
    "parts/naming": "once a part",
    "parts/table": "once a batch; Arrow",
    "parts/writer": "once a part",
}


def compiled_modules() -> dict[str, tuple[str, ...]]:
    """COMPILED of setup.py: names of modules by folder."""
    assigned = [node for node in ast.parse((ROOT / "setup.py").read_text()).body if isinstance(node, ast.Assign)]
    (names,) = [ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "COMPILED"]
    found: dict[str, tuple[str, ...]] = names
    return found


def test_every_hot_module_has_the_form_that_this_run_is_about() -> None:
    """Without this, the run over compiled modules could run over their source."""
    compiled = os.environ.get("COMPILED") == "1"
    assert ("compiled" if compiled else "interpreted") == CODE
    assert ROOT == Path(collector.__file__).parents[1]
    for folder, modules in compiled_modules().items():
        for module in modules:
            file = import_module(f"collector.{folder.replace('/', '.')}{module}").__file__
            assert compiled is str(file).endswith(".so"), module


def test_every_module_on_the_path_of_an_event_is_compiled() -> None:
    """Or INTERPRETED says why not."""
    compiled = {f"{folder}{name}" for folder, names in compiled_modules().items() for name in names}
    found = {
        f"{folder}/{path.stem}"
        for folder in ("edge", "ingest", "journal", "parts")
        for path in (ROOT / "collector" / folder).glob("*.py")
        if path.stem != "__init__"
    }
    for module in found & compiled:  # and the modules at the top that these import
        source = (ROOT / "collector" / f"{module}.py").read_text()
        imported = re.findall(r"^from collector\.(\w+) import", source, re.MULTILINE)
        found |= {name for name in imported if (ROOT / "collector" / f"{name}.py").exists()}
    assert found == compiled | INTERPRETED.keys()
    assert not compiled & INTERPRETED.keys()


def test_every_build_compiles_with_the_same_mypy() -> None:
    """`pip install .`, `make binary` and `make compiled` each read another file."""
    files = ("pyproject.toml", "requirements/compile.in", "requirements/dev.txt")
    found = {name: re.findall(r"\bmypy==([0-9.]+)", (ROOT / name).read_text()) for name in files}
    versions = set(map(tuple, found.values()))
    assert (1, 1) == (len(versions), len(versions.pop())), found
