"""The edge uses aiohttp's public names only: private ones may change in any release without notice."""

import ast
import importlib
import inspect
import textwrap
from pathlib import Path

import pytest

import collector.edge

MODULES = sorted(Path(collector.edge.__file__).parent.glob("*.py"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def is_aiohttps(module: str) -> bool:
    return module.split(".")[0] == "aiohttp"


def of_itself(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def private_uses(tree: ast.AST) -> list[str]:
    """Each private attribute of another object, and each private import from aiohttp."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not of_itself(node):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom) and node.module and is_aiohttps(node.module):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            found += [f"line {node.lineno}: {ast.unparse(node)}" for name in names if is_private(name)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if is_aiohttps(alias.name)]
            found += [f"line {node.lineno}: import {name}" for name in names if any(map(is_private, name.split(".")))]
    return found


def own_names(cls: type) -> set[str]:
    """The private names that a class defines or uses on `self`."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and of_itself(node)}
    return {name for name in {*used, *vars(cls)} if is_private(name)} - {"_abc_impl"}  # Python sets it on every ABC


def aiohttp_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if is_aiohttps(base.__module__)]


def classes_on_aiohttp() -> list[type]:
    modules = [importlib.import_module(f"collector.edge.{path.stem}") for path in MODULES]
    return [
        cls
        for module in modules
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and aiohttp_bases(cls)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_uses_no_private_name_of_another_object(path: Path) -> None:
    assert [] == private_uses(ast.parse(path.read_text()))


@pytest.mark.parametrize("cls", classes_on_aiohttp(), ids=lambda cls: cls.__name__)
def test_subclass_shares_no_private_name_with_aiohttp(cls: type) -> None:
    """It neither uses nor overrides an inherited one. Names set in `__init__` are found in the source only."""
    theirs = {name for base in aiohttp_bases(cls) for name in {*dir(base), *own_names(base)}}
    assert set() == own_names(cls) & theirs


def test_subclasses_are_found() -> None:
    """Otherwise the test above would have no cases."""
    assert {"AiohttpHandler", "Sent"} <= {cls.__name__ for cls in classes_on_aiohttp()}


@pytest.mark.parametrize(
    "code",
    [
        "request._payload_writer",
        "self._server._requests",
        "super()._start()",
        "from aiohttp.web_protocol import _PAYLOAD_ACCESS_ERROR",
        "from aiohttp._http_parser import HttpRequestParser",
        "import aiohttp._http_parser",
    ],
)
def test_private_use_is_found(code: str) -> None:
    assert 1 == len(private_uses(ast.parse(code)))
