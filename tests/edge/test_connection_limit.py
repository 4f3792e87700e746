"""The connection limit: which connection is evicted when there are too many."""

from collector.edge.connection_limit import OLDEST_ASKED, ConnectionLimit


class Connected:
    def __init__(self, *, is_idle: bool = True) -> None:
        self.is_idle = is_idle

    def evict(self) -> None:
        raise AssertionError  # the limit returns the connection; its caller evicts it


def test_busy_connections_do_not_shield_an_idle_one() -> None:
    """The first newcomer finds no idle one among the 100 oldest. The second checks those behind them."""
    limit = ConnectionLimit(OLDEST_ASKED + 1)
    for connection in (*(Connected(is_idle=False) for _ in range(OLDEST_ASKED)), idle := Connected()):
        assert limit.enter(connection, None, 0) is None
    newcomer = Connected()
    assert (newcomer, "all") == limit.enter(newcomer, None, 0)
    limit.leave(newcomer)
    assert (idle, "all") == limit.enter(Connected(), None, 0)


def test_clients_are_counted_separately_and_forgotten() -> None:
    limit = ConnectionLimit(100)
    first, second, third = Connected(), Connected(), Connected()
    assert [None, None] == [limit.enter(first, "a", 1), limit.enter(second, "b", 1)]
    assert (first, "client") == limit.enter(third, "a", 1)
    for connection in (first, second, third):
        limit.leave(connection)
    assert (0, {}, {}) == (len(limit), limit._of, limit._client_of)


def test_oldest_idle_connection_of_a_client_is_evicted() -> None:
    limit = ConnectionLimit(100)
    busy, oldest, younger = Connected(is_idle=False), Connected(), Connected()
    for connection in (busy, oldest, younger):
        limit.enter(connection, "a", 3)
    assert (oldest, "client") == limit.enter(Connected(), "a", 3)
