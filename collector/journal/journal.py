"""The journal: where an accepted event becomes a stored one.

One segment is open; sealed ones wait for their flush, in order. What is not yet published counts against
one limit, and at the limit the journal refuses rather than grow. In this version segments live in memory, and
`append` returns when the event is in its buffer.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from collector.events import Event
from collector.journal.buffer import Buffer
from collector.journal.segment import Segment
from collector.parts.naming import new_segment_id

# One segment open, one being flushed, one copied by its sort, one waiting: the memory a collector may take for events.
MEMORY_SEGMENTS = 4


class Journal:
    """Takes events, and hands out sealed segments. The event loop's thread owns it."""

    def __init__(
        self, *, segment_max_bytes: int, journal_max_bytes: int, new_id: Callable[[], str] = new_segment_id
    ) -> None:
        self._segment_max_bytes = segment_max_bytes
        self._max_bytes = min(journal_max_bytes, MEMORY_SEGMENTS * segment_max_bytes)
        self._new_id = new_id
        self._buffer = Buffer(new_id())
        self._sealed_bytes = 0
        self._closed = False
        self.sealed: list[Segment] = []
        self.trouble: str | None = None  # what keeps events from being taken, for a person; None: nothing
        self.segment_waiting = asyncio.Event()

    def can_append(self) -> bool:
        """Whether an event would be taken now."""
        return self.unpublished_bytes < self._max_bytes and self.trouble is None and not self._closed

    def refusing_because(self) -> str:
        """Why `can_append` says no, for a person."""
        if self._closed:
            return "draining"
        return self.trouble or "the buffers are full"

    async def append(self, event: Event) -> bool:
        """Store the event: True once it is as safe as `durability` says, False if there is no room for it."""
        if not self.can_append():
            return False
        self._buffer.append(event)
        if self._buffer.size_bytes >= self._segment_max_bytes:
            self.seal()
        return True

    def seal(self) -> None:
        """Close the open segment, if it holds anything, and open the next."""
        if self._buffer.rows:
            segment, self._buffer = self._buffer.seal(), Buffer(self._new_id())
            self.sealed.append(segment)
            self._sealed_bytes += segment.size_bytes
            self.segment_waiting.set()

    def release(self, segment: Segment) -> None:
        """Forget a sealed segment, all of whose parts are published."""
        self.sealed.remove(segment)
        self._sealed_bytes -= segment.size_bytes
        if not self.sealed:
            self.segment_waiting.clear()

    def close(self) -> None:
        """Take no more events, and seal what there is."""
        self._closed = True
        self.seal()

    @property
    def unpublished_bytes(self) -> int:
        """What waits in the open segment and the sealed ones is charged for."""
        return self._buffer.size_bytes + self._sealed_bytes

    @property
    def unpublished_rows(self) -> int:
        return self._buffer.rows + sum(segment.rows for segment in self.sealed)

    def buffered_by_site(self) -> Counter[str]:
        """How many events of each site are not yet published."""
        by_site: Counter[str] = Counter()
        for rows_of in (self._buffer.rows_of(), *(segment.rows_of for segment in self.sealed)):
            for (_, site_id), rows in rows_of.items():
                by_site[site_id] += rows
        return by_site
