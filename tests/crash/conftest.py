"""The two lengths of a torture: `make torture` runs the long form, `make test` the short one of the same tests."""

import os

import pytest

LONG = os.environ.get("TORTURE") == "1"


def times(short: int, long: int) -> int:
    """How often to do something."""
    return long if LONG else short


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The short form leaves out the tests marked `long`: variations of others, each some ten seconds."""
    left_out = [] if LONG else [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def need(present: bool, what: str) -> None:
    """Skip a test that needs what is absent; where CI installs it, its absence is a failure."""
    if not present:
        if os.environ.get("CI") == "true":
            pytest.fail(f"needs {what}, which CI installs")
        pytest.skip(f"needs {what}")
