"""A request as decisions see it, whichever way it came: of its head only what an answer may depend on."""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple
from urllib.parse import unquote

from collector.ingest.pipeline import Arrival
from collector.metrics import SiteCounts

COLLECT_METHODS = "POST, OPTIONS"
HEALTH_METHODS = "GET, HEAD"

_COLLECT = re.compile(r"/public/([^/]*)/analytics/collect/?")
_HEALTH = "/healthz"


class Endpoint(Enum):
    """What a method and a path ask for."""

    EVENT = auto()  # to store one
    PREFLIGHT = auto()
    HEALTH = auto()
    WRONG_METHOD = auto()
    NOTHING = auto()


class Route(NamedTuple):
    """A method and a path, read. Any text may stand for a site: what is no site id is no site either."""

    endpoint: Endpoint
    site_id: str | None = None
    methods: str = COLLECT_METHODS  # that the path has


def find_route(method: str, path: str) -> Route:
    """The route of a path as it was sent, without its query. One slash may stand at the end of a collect path."""
    match = _COLLECT.fullmatch(path)
    if match is not None:
        endpoint = {"POST": Endpoint.EVENT, "OPTIONS": Endpoint.PREFLIGHT}.get(method, Endpoint.WRONG_METHOD)
        return Route(endpoint, unquote(match[1]))
    if path == _HEALTH:
        endpoint = Endpoint.HEALTH if method in ("GET", "HEAD") else Endpoint.WRONG_METHOD
        return Route(endpoint, methods=HEALTH_METHODS)
    return Route(Endpoint.NOTHING)


class Request(Arrival):
    """A request: what was sent; and `site`, `client` and `counts` once a check has looked them up.

    `peer` is the other end of the connection. `headers` has the names in lower case; of a header that comes more than
    once it has the first value, but all of a list, joined by commas. `body_bytes` is the declared length, None with
    chunks. `close`: nothing is read behind the request; so the client says, or the response has to say.
    """

    __slots__ = ("body_bytes", "close", "counts", "headers", "method", "peer", "route")

    def __init__(
        self,
        method: str,
        route: Route,
        peer: str | None,
        headers: Mapping[str, str],
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
