"""The value of the `Date` header, rendered once a second."""

import time
from email.utils import formatdate


class Date:
    def __init__(self) -> None:
        self._second = -1
        self._end = b""

    def end_of_head(self) -> bytes:
        """The current value and the end of the head: `Thu, 01 Jan 1970 00:00:01 GMT\\r\\n\\r\\n`."""
        second = int(time.time())
        if second != self._second:
            self._second, self._end = second, f"{formatdate(second, usegmt=True)}\r\n\r\n".encode()
        return self._end
