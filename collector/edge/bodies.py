"""The memory limit that all incoming request bodies share."""

# A body takes twice its size while it arrives. Only an attack sends a thousand of the largest at once. Bodies that
# arrive with their head, as nearly all do, do not count.
MAX_INCOMING_BYTES = 64 << 20


class Bodies:
    """Room for incoming bodies. Release what you take."""

    def __init__(self, max_bytes: int = MAX_INCOMING_BYTES) -> None:
        self._left_bytes = max_bytes

    def take(self, size_bytes: int) -> bool:
        """Reserve room for a body of that size. Return False, and reserve nothing, if there is not enough."""
        if size_bytes > self._left_bytes:
            return False
        self._left_bytes -= size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        self._left_bytes += size_bytes
