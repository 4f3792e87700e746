"""The number of requests in flight. A drain waits until it is zero."""

import asyncio

POLL_S = 0.02


class InFlight:
    """Counts requests from head to response. While `draining`, every response closes its connection."""

    def __init__(self) -> None:
        self.count = 0
        self.draining = False

    async def none(self) -> None:
        """Wait until no request is in flight."""
        while self.count:  # noqa: ASYNC110 - an asyncio.Event would cost each request 0.2 us
            await asyncio.sleep(POLL_S)
