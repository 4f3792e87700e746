"""From page to Parquet: what every test of this engine sent, and what is stored. It comes last (conftest.py)."""

import pytest

from tests.tracker.conftest import World
from tests.tracker.engines import Engine
from tests.tracker.recorder import differences


def test_every_acknowledged_event_is_a_row_with_the_same_values(world: World, engine: Engine) -> None:
    """No row is missing, no row is extra, and no field differs. Late beacons are among them."""
    visits = [visit for visit in world.visits if visit.engine is engine]
    if not any(visit.events() for visit in visits):
        pytest.skip("no test of this engine ran before")
    world.collector.published()
    wrong = {}
    for visit in visits:
        stored = [each.event for each in visit.requests() if each.is_event and each.status == 201]
        if found := differences(stored, world.collector.rows(visit.site)):
            wrong[visit.test] = found
        visit.check()
    assert {} == wrong
