"""The requests that are being answered. A drain waits until there are none."""

import asyncio

POLL_S = 0.02  # to be told of each costs every event 0.2 us


class InFlight:
    """Counts them, from a request's head to its response. `draining`: every response closes its connection."""

    def __init__(self) -> None:
        self.count = 0
        self.draining = False

    async def none(self) -> None:
        """Wait until there are none."""
        while self.count:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
