"""Routes: what a method and a path request. The paths of the tracker can be set, so the table is made at the start."""

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final, NamedTuple
from urllib.parse import unquote

COLLECT_METHODS = "POST, OPTIONS"
READ_METHODS = "GET, HEAD"

_CONTRACT = "analytics/collect"
_BATCH = "batch"
_PIXEL = "p.gif"
_HEALTH = "/healthz"
_BELOW_SITE = re.compile("/public/([^/]*)(/[^/]*)")


class Endpoint(Enum):
    """What a method and a path request."""

    EVENT = auto()  # store an event
    BATCH = auto()  # store several
    PIXEL = auto()  # store the event in the query
    PREFLIGHT = auto()
    HEALTH = auto()
    FILE = auto()  # the tracker's script, or a page of the demo
    WRONG_METHOD = auto()
    NOTHING = auto()


class Route(NamedTuple):
    """A parsed method and path. `site_id` may be any text; invalid ids are refused as unknown sites."""

    endpoint: Endpoint
    site_id: str | None = None
    methods: str = COLLECT_METHODS  # the methods that the path allows
    file: str = ""  # the key of the file among `Files`


class Routes:
    """The paths of a collector.

    `collect_paths`: the last part of the paths that take events, beside the contract's. `scripts`: the names of the
    script, served below each site and at the root. `files`: the other paths of files.
    """

    def __init__(
        self, collect_paths: Iterable[str] = (), scripts: Iterable[str] = (), files: Iterable[str] = ()
    ) -> None:
        ends = "|".join(map(re.escape, (_CONTRACT, *collect_paths)))
        self._collect: Final = re.compile(f"/public/([^/]*)/(?:{ends}|({_BATCH}))/?")
        # The target of a head that nothing has parsed: it may be a URL, and have a query.
        below = f"(?:(?:{ends}|{_BATCH})/?|{re.escape(_PIXEL)})"
        self._collect_target: Final = re.compile(
            f"(?:https?://[^/?#]*)?/public/([^/?#]*)/{below}(?:[?#].*)?".encode(), re.IGNORECASE
        )
        self._scripts: Final = frozenset(f"/{name}" for name in scripts)
        self._files: Final = self._scripts | {*files}

    def find(self, method: str, path: str) -> Route:
        """The route of a raw path without its query. A collect path may end in one slash."""
        match = self._collect.fullmatch(path)
        if match is not None:
            post = Endpoint.EVENT if match[2] is None else Endpoint.BATCH
            endpoint = {"POST": post, "OPTIONS": Endpoint.PREFLIGHT}.get(method, Endpoint.WRONG_METHOD)
            return Route(endpoint, unquote(match[1]))
        reads = method in ("GET", "HEAD")
        if path == _HEALTH:
            return Route(Endpoint.HEALTH if reads else Endpoint.WRONG_METHOD, methods=READ_METHODS)
        site_id, file = None, path
        match = _BELOW_SITE.fullmatch(path)
        if match is not None and match[2] == f"/{_PIXEL}":
            return Route(Endpoint.PIXEL if reads else Endpoint.WRONG_METHOD, unquote(match[1]), READ_METHODS)
        if match is not None and match[2] in self._scripts:
            site_id, file = unquote(match[1]), match[2]
        elif path not in self._files:
            return Route(Endpoint.NOTHING)
        return Route(Endpoint.FILE if reads else Endpoint.WRONG_METHOD, site_id, READ_METHODS, file)

    def site_of(self, target: bytes) -> str | None:
        """The site that the target of a refused head names, if it takes events."""
        match = self._collect_target.fullmatch(target)
        return None if match is None else unquote(match[1].decode())
