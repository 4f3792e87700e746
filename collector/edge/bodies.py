"""The bodies that are still coming in, and what they may take together."""

# A body takes twice its size while it comes in. A thousand of the largest at once are an attack; bodies that come
# with their head, as nearly all do, need no room.
MAX_INCOMING_BYTES = 64 << 20


class Bodies:
    """Room for bodies. Whoever has taken some gives it back."""

    def __init__(self, max_bytes: int = MAX_INCOMING_BYTES) -> None:
        self._left_bytes = max_bytes

    def take(self, size_bytes: int) -> bool:
        """Whether there is room for one more of that size."""
        if size_bytes > self._left_bytes:
            return False
        self._left_bytes -= size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        self._left_bytes += size_bytes
