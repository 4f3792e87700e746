"""The requests in flight. A drain waits until there are none."""

import asyncio

POLL_S = 0.02


class InFlight:
    """Counts requests from their heads to their responses. `draining`: every response closes its connection."""

    def __init__(self) -> None:
        self.count = 0
        self.draining = False

    async def none(self) -> None:
        """Wait until there are none."""
        while self.count:  # noqa: ASYNC110 - an asyncio.Event would cost each request 0.2 us
            await asyncio.sleep(POLL_S)
