"""The value of `Date`, rendered once a second."""

import time
from email.utils import formatdate


class Date:
    def __init__(self) -> None:
        self._second = -1
        self._end = b""

    def end_of_head(self) -> bytes:
        """The value, and the end of a head."""
        second = int(time.time())
        if second != self._second:
            self._second, self._end = second, f"{formatdate(second, usegmt=True)}\r\n\r\n".encode()
        return self._end
