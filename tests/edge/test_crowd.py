"""Who has to go when there are too many."""

import pytest

from collector.edge.crowd import OLDEST_ASKED, Crowd


class Guest:
    def __init__(self, *, is_idle: bool = True) -> None:
        self.is_idle = is_idle


@pytest.fixture(autouse=True)
def way() -> str:
    """Nothing here depends on it."""
    return "both"


def test_busy_guests_shield_nobody() -> None:
    """The second that finds none idle among the oldest asks those behind them."""
    crowd = Crowd(OLDEST_ASKED + 1)
    for guest in (*(Guest(is_idle=False) for _ in range(OLDEST_ASKED)), idle := Guest()):
        assert crowd.enter(guest, None, 0) is None
    newcomer = Guest()
    assert (newcomer, "all") == crowd.enter(newcomer, None, 0)
    crowd.leave(newcomer)
    assert (idle, "all") == crowd.enter(Guest(), None, 0)


def test_clients_are_counted_apart_and_forgotten() -> None:
    crowd = Crowd(100)
    first, second = Guest(), Guest()
    assert [None, None] == [crowd.enter(first, "a", 1), crowd.enter(second, "b", 1)]
    assert (first, "client") == crowd.enter(Guest(), "a", 1)
    for guest in list(crowd._all):
        crowd.leave(guest)
    assert (0, {}, {}) == (len(crowd), crowd._of, crowd._client_of)


def test_of_one_client_the_oldest_idle_goes() -> None:
    crowd = Crowd(100)
    busy, oldest, younger = Guest(is_idle=False), Guest(), Guest()
    for guest in (busy, oldest, younger):
        crowd.enter(guest, "a", 3)
    assert (oldest, "client") == crowd.enter(Guest(), "a", 3)
