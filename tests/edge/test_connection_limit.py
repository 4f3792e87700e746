"""Who has to go when there are too many."""

import pytest

from collector.edge.connection_limit import OLDEST_ASKED, ConnectionLimit


class LimitedConnection:
    def __init__(self, *, is_idle: bool = True) -> None:
        self.is_idle = is_idle


@pytest.fixture(autouse=True)
def way() -> str:
    """Nothing here depends on it."""
    return "both"


def test_busy_guests_shield_nobody() -> None:
    """The second that finds none idle among the oldest asks those behind them."""
    crowd = ConnectionLimit(OLDEST_ASKED + 1)
    for connection in (*(LimitedConnection(is_idle=False) for _ in range(OLDEST_ASKED)), idle := LimitedConnection()):
        assert crowd.enter(connection, None, 0) is None
    newcomer = LimitedConnection()
    assert (newcomer, "all") == crowd.enter(newcomer, None, 0)
    crowd.leave(newcomer)
    assert (idle, "all") == crowd.enter(LimitedConnection(), None, 0)


def test_clients_are_counted_apart_and_forgotten() -> None:
    crowd = ConnectionLimit(100)
    first, second = LimitedConnection(), LimitedConnection()
    assert [None, None] == [crowd.enter(first, "a", 1), crowd.enter(second, "b", 1)]
    assert (first, "client") == crowd.enter(LimitedConnection(), "a", 1)
    for connection in list(crowd._all):
        crowd.leave(connection)
    assert (0, {}, {}) == (len(crowd), crowd._of, crowd._client_of)


def test_of_one_client_the_oldest_idle_goes() -> None:
    crowd = ConnectionLimit(100)
    busy, oldest, younger = LimitedConnection(is_idle=False), LimitedConnection(), LimitedConnection()
    for connection in (busy, oldest, younger):
        crowd.enter(connection, "a", 3)
    assert (oldest, "client") == crowd.enter(LimitedConnection(), "a", 3)
