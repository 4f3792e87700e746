"""The objects that all connections of a server share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from collector.edge.bodies import Bodies
from collector.edge.date import Date
from collector.edge.decide import Decider
from collector.edge.fast_path import FastPath
from collector.edge.standard_path import StandardPath
from collector.edge.turn_budget import TurnBudget


@dataclass(frozen=True, slots=True)
class Shared:
    """Made once by the server."""

    decider: Decider
    fast_path: FastPath | None  # None: every request takes the standard path
    standard_path: StandardPath
    bodies: Bodies
    turn_budget: TurnBudget
    date: Date
    keepalive_timeout_s: float
    enter: Callable[[Any], object]  # called with each new connection
    leave: Callable[[Any], object]  # called with each closed connection
