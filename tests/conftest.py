"""Fixtures that tests of several stages share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import FakeClock, Running, config, running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def collector(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Running]:
    """A collector with the site `demo` and every default."""
    async with running(config(tmp_path / "data"), clock) as started:
        yield started
