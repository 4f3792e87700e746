"""A request as the decider sees it, whichever path read it: the parts of its head that a response may depend on."""

from typing import Final

from collector.edge.client_ip import LIST_HEADERS, SINGLE_HEADERS
from collector.edge.routes import Route
from collector.ingest.pipeline import Arrival
from collector.site_counts import SiteCounts

ONCE: Final = frozenset(
    (
        "access-control-request-headers",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "dnt",
        "host",
        "idempotency-key",
        "origin",
        "referer",
        "sec-gpc",
        "user-agent",
        *LIST_HEADERS,
        *SINGLE_HEADERS,
        # Nobody reads these, but aiohttp refuses requests that repeat them (RFC 9110, 5.3).
        "content-location",
        "content-range",
        "content-type",
        "etag",
        "max-forwards",
        "server",
    )
)
"""The headers that a request on the fast path has at most once, in lower case. The fast path drops all others."""


class Request(Arrival):
    """A request. Checks set `site`, `client`, `counts` and `is_sender` when they look them up.

    `peer` is the address of the other end of the connection. `headers` has lower-case names. A repeated header has its
    first value, or all values joined by commas if it is a list. `body_bytes` is the declared length, None for chunks.
    `close`: the connection closes after the response. `is_packed`: its body is gzip. `in_steps`: its body is packed, or
    takes longer than one turn of the event loop may. `pixel_query`: the query of a pixel; None for all other requests.
    """

    __slots__ = (
        "body_bytes",
        "close",
        "counts",
        "headers",
        "in_steps",
        "is_packed",
        "method",
        "peer",
        "pixel_query",
        "route",
    )

    def __init__(
        self,
        method: str,
        route: Route,
        peer: str | None,
        headers: dict[str, str],
        body_bytes: int | None,
        close: bool,
    ) -> None:
        self.method = method
        self.route = route
        self.peer = peer
        self.headers = headers
        self.body_bytes = body_bytes
        self.close = close
        self.in_steps = False
        self.is_packed = False
        self.is_sender = False
        self.pixel_query: str | None = None
        self.counts: SiteCounts | None = None
        self.origin = headers.get("origin")
        self.referer = headers.get("referer")
        self.user_agent = headers.get("user-agent")
