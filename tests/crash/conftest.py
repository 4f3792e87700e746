"""The two lengths of the crash tests: `make torture` runs the long form, `make test` a short form of the same tests."""

import os

import pytest

LONG = os.environ.get("TORTURE") == "1"


def times(short: int, long: int) -> int:
    """Return the repetitions for this run: `short` or `long`."""
    return long if LONG else short


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked `long` in the short form: variations of others that take some ten seconds each."""
    left_out = [] if LONG else [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def need(present: bool, what: str) -> None:
    """Skip the test if a requirement is absent; fail under CI, which installs all of them."""
    if not present:
        if os.environ.get("CI") == "true":
            pytest.fail(f"needs {what}, which CI installs")
        pytest.skip(f"needs {what}")
