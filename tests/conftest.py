"""Fixtures for the tests of several stages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.support import FakeClock, Running, config, running

# By default hypothesis fails an example that takes 0.2 s, or slow data generation. A busy machine causes both.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Test the edge on uvloop, as workers run it: its connections pause, close and end differently from asyncio's."""
    return {"uvloop": uvloop.new_event_loop} if item.path.parent.name == "edge" else {"asyncio": asyncio.new_event_loop}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def collector(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Running]:
    """A collector with the site `demo` and every default."""
    async with running(config(tmp_path / "data"), clock) as started:
        yield started
