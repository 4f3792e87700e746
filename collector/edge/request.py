"""A request as the decider sees it, whichever path read it: the parts of its head that a response may depend on."""

import re
from enum import Enum, auto
from typing import Final, NamedTuple
from urllib.parse import unquote

from collector.ingest.pipeline import Arrival
from collector.site_counts import SiteCounts

COLLECT_METHODS = "POST, OPTIONS"
HEALTH_METHODS = "GET, HEAD"

_COLLECT = re.compile(r"/public/([^/]*)/analytics/collect/?")
_HEALTH = "/healthz"


ONCE: Final = frozenset(
    (
        "access-control-request-headers",
        "connection",
        "content-encoding",
        "content-length",
        "host",
        "origin",
        "referer",
        "user-agent",
        "x-forwarded-for",
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


class Endpoint(Enum):
    """What a method and a path request."""

    EVENT = auto()  # store an event
    PREFLIGHT = auto()
    HEALTH = auto()
    WRONG_METHOD = auto()
    NOTHING = auto()


class Route(NamedTuple):
    """A parsed method and path. `site_id` may be any text; invalid ids are refused as unknown sites."""

    endpoint: Endpoint
    site_id: str | None = None
    methods: str = COLLECT_METHODS  # the methods that the path allows


def find_route(method: str, path: str) -> Route:
    """The route of a raw path without its query. A collect path may end in one slash."""
    match = _COLLECT.fullmatch(path)
    if match is not None:
        endpoint = {"POST": Endpoint.EVENT, "OPTIONS": Endpoint.PREFLIGHT}.get(method, Endpoint.WRONG_METHOD)
        return Route(endpoint, unquote(match[1]))
    if path == _HEALTH:
        endpoint = Endpoint.HEALTH if method in ("GET", "HEAD") else Endpoint.WRONG_METHOD
        return Route(endpoint, methods=HEALTH_METHODS)
    return Route(Endpoint.NOTHING)


class Request(Arrival):
    """A request. Checks set `site`, `client` and `counts` when they look them up.

    `peer` is the address of the other end of the connection. `headers` has lower-case names. A repeated header has its
    first value, or all values joined by commas if it is a list. `body_bytes` is the declared length, None for chunks.
    `close`: the connection closes after the response.
    """

    __slots__ = ("body_bytes", "close", "counts", "headers", "method", "peer", "route")

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
        self.counts: SiteCounts | None = None
        self.origin = headers.get("origin")
        self.referer = headers.get("referer")
        self.user_agent = headers.get("user-agent")
