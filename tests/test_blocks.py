"""Context managers written as generators: what they began is ended however their block is left."""

import ast
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[1]

# They ask what is so where the block went well.
ONLY_WHERE_IT_WENT_WELL = {"costs_at_most", "counting", "draining", "regular_clients"}


def test_every_block_ends_what_it_began() -> None:
    """What stands behind a bare `yield` is not done where the block fails."""
    found = {
        f"{path.relative_to(ROOT)}: {function.name}"
        for folder in ("collector", "bench", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(ast.unparse(decorator).endswith("contextmanager") for decorator in function.decorator_list)
        and function.name not in ONLY_WHERE_IT_WENT_WELL
        and leaves_behind(function.body)
    }
    assert set() == found


def leaves_behind(steps: list[ast.stmt]) -> bool:
    """Whether a step follows a `yield` that may not be reached; one of a `try` with `finally` is."""
    for step, later in zip_longest(steps, steps[1:]):
        if isinstance(step, ast.Expr) and isinstance(step.value, ast.Yield | ast.YieldFrom):
            return later is not None and not isinstance(later, ast.Return)
        if isinstance(step, ast.Try) and step.finalbody:
            continue
        inner = [getattr(step, name, []) for name in ("body", "orelse", "finalbody")]
        if any(leaves_behind(each) for each in inner):
            return True
        if later is not None and isinstance(step, ast.With | ast.AsyncWith) and yields(step):
            return True
    return False


def yields(step: ast.stmt) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(step))
