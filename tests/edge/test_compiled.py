"""The two forms of the hot modules: `make test` runs these tests over both, and says which by COMPILED."""

import ast
import os
from importlib import import_module
from pathlib import Path

import collector
from collector.build import CODE

ROOT = Path(__file__).parents[2]


def test_every_hot_module_has_the_form_that_this_run_is_about() -> None:
    """Without this, the run over compiled modules could run over their source."""
    assigned = [node for node in ast.parse((ROOT / "setup.py").read_text()).body if isinstance(node, ast.Assign)]
    (names,) = [ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "COMPILED"]
    compiled = os.environ.get("COMPILED") == "1"
    assert ("compiled" if compiled else "interpreted") == CODE
    assert ROOT == Path(collector.__file__).parents[1]
    for folder, modules in names.items():
        for module in modules:
            file = import_module(f"collector.{folder.replace('/', '.')}{module}").__file__
            assert compiled is str(file).endswith(".so"), module
