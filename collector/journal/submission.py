"""Submissions: events on their way into the journal, and what happens once they are committed."""

import asyncio
from typing import Final

from collector.events import Event


class Submission:
    """An event on its way into the journal. A class rather than a callback: compiled code calls it 0.2 us faster."""

    def __init__(self, event: Event) -> None:
        self.event: Final = event

    def done(self, stored: bool) -> None:
        """Called once, with True if the event is stored. Must not raise."""
        raise NotImplementedError


class AwaitedSubmission(Submission):
    """Its outcome is the result of a future."""

    def __init__(self, event: Event) -> None:
        super().__init__(event)
        self.stored: Final[asyncio.Future[bool]] = asyncio.get_running_loop().create_future()

    def done(self, stored: bool) -> None:
        if not self.stored.done():  # it is done if the request was cancelled
            self.stored.set_result(stored)
