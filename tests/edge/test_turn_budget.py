"""The turn budget: each turn processes some of the pieces, in the order in which they arrived."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from collector.edge.turn_budget import PIECE_BYTES, TURN_BYTES, TurnBudget


def _append(taken: list[list[int]], number: int) -> None:
    taken[-1].append(number)


def take_up(turn_budget: TurnBudget, size_bytes: int, go_on: Callable[[], object]) -> bool:
    """Whether a piece may be processed at once. If not, `go_on` is called when it may."""
    if turn_budget.take(size_bytes):
        return True
    turn_budget.wait(size_bytes, go_on)
    return False


async def turns(turn_budget: TurnBudget, sizes_bytes: list[int]) -> list[list[int]]:
    """Which pieces each turn of the loop processes, if all arrive in one turn."""
    taken: list[list[int]] = [[]]
    for number, size_bytes in enumerate(sizes_bytes):
        if take_up(turn_budget, size_bytes, partial(_append, taken, number)):
            _append(taken, number)
    while sum(map(len, taken)) < len(sizes_bytes):
        taken.append([])
        await asyncio.sleep(0)
    return [turn for turn in taken if turn]


async def test_pieces_within_the_budget_are_processed_at_once() -> None:
    turn_budget = TurnBudget()
    for _ in range(3):
        assert [[0, 1, 2]] == await turns(turn_budget, 3 * [TURN_BYTES // 3 - PIECE_BYTES])
        await asyncio.sleep(0)


async def test_turn_stops_at_its_budget_and_the_rest_waits_in_order() -> None:
    """A turn exceeds its budget by one piece at most. An empty piece has a cost too."""
    assert [[0, 1], [2], [3, 4]] == await turns(TurnBudget(), [0, TURN_BYTES, 2 * TURN_BYTES, 0, 0])
    many = 3 * (TURN_BYTES // PIECE_BYTES)
    found = await turns(TurnBudget(), many * [0])
    assert list(range(many)) == [number for turn in found for number in turn]
    assert TURN_BYTES // PIECE_BYTES + 1 == max(map(len, found))


async def test_new_piece_waits_behind_older_ones() -> None:
    turn_budget = TurnBudget()
    order: list[int] = []
    assert take_up(turn_budget, TURN_BYTES, lambda: None)
    for number in range(3):
        assert not take_up(turn_budget, TURN_BYTES, partial(order.append, number))
    await asyncio.sleep(0)
    assert [0] == order
    assert not take_up(turn_budget, 0, lambda: order.append(3))
    for _ in range(3):
        await asyncio.sleep(0)
    assert [0, 1, 2, 3] == order


async def test_waiting_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, pieces are processed at once: nothing is lost, and memory does not grow."""
    monkeypatch.setattr("collector.edge.turn_budget.WAITING_MAX_BYTES", 3 * PIECE_BYTES)
    assert [[0, 4, 5], [1, 2, 3]] == await turns(TurnBudget(), [TURN_BYTES, *5 * [0]])
