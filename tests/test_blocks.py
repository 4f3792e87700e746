"""Context managers written as generators clean up even if their block raises."""

import ast
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[1]

# These check or commit something after the block, which makes sense only if it succeeded.
ONLY_AFTER_SUCCESS = {"_transaction", "costs_at_most", "counting", "draining", "regular_clients"}


def test_context_managers_clean_up_when_their_block_raises() -> None:
    """Statements after a bare `yield` do not run if the block raises."""
    found = {
        f"{path.relative_to(ROOT)}: {function.name}"
        for folder in ("collector", "bench", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(ast.unparse(decorator).endswith("contextmanager") for decorator in function.decorator_list)
        and function.name not in ONLY_AFTER_SUCCESS
        and skips_cleanup(function.body)
    }
    assert set() == found


def skips_cleanup(steps: list[ast.stmt]) -> bool:
    """Whether a statement follows a `yield` outside `try` with `finally`, so that an exception skips it."""
    for step, later in zip_longest(steps, steps[1:]):
        if isinstance(step, ast.Expr) and isinstance(step.value, ast.Yield | ast.YieldFrom):
            return later is not None and not isinstance(later, ast.Return)
        if isinstance(step, ast.Try) and step.finalbody:
            continue
        inner = [getattr(step, name, []) for name in ("body", "orelse", "finalbody")]
        if any(skips_cleanup(each) for each in inner):
            return True
        if later is not None and isinstance(step, ast.With | ast.AsyncWith) and yields(step):
            return True
    return False


def yields(step: ast.stmt) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(step))
