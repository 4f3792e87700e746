"""Who has to go when there are too many."""

import pytest

from collector.edge.connection_limit import OLDEST_ASKED, ConnectionLimit


class Connected:
    def __init__(self, *, is_idle: bool = True) -> None:
        self.is_idle = is_idle

    def evict(self) -> None:
        raise AssertionError  # who is to go is told, and that is all


@pytest.fixture(autouse=True)
def http_path() -> str:
    """Nothing here depends on it."""
    return "both"


def test_busy_connections_shield_nobody() -> None:
    """The second that finds none idle among the oldest asks those behind them."""
    limit = ConnectionLimit(OLDEST_ASKED + 1)
    for connection in (*(Connected(is_idle=False) for _ in range(OLDEST_ASKED)), idle := Connected()):
        assert limit.enter(connection, None, 0) is None
    newcomer = Connected()
    assert (newcomer, "all") == limit.enter(newcomer, None, 0)
    limit.leave(newcomer)
    assert (idle, "all") == limit.enter(Connected(), None, 0)


def test_clients_are_counted_apart_and_forgotten() -> None:
    limit = ConnectionLimit(100)
    first, second = Connected(), Connected()
    assert [None, None] == [limit.enter(first, "a", 1), limit.enter(second, "b", 1)]
    assert (first, "client") == limit.enter(Connected(), "a", 1)
    for connection in list(limit._all):
        limit.leave(connection)
    assert (0, {}, {}) == (len(limit), limit._of, limit._client_of)


def test_of_one_client_the_oldest_idle_goes() -> None:
    limit = ConnectionLimit(100)
    busy, oldest, younger = Connected(is_idle=False), Connected(), Connected()
    for connection in (busy, oldest, younger):
        limit.enter(connection, "a", 3)
    assert (oldest, "client") == limit.enter(Connected(), "a", 3)
