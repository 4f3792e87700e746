"""The server that the public connects to: aiohttp's, with connections of ours, and bounds on how many there are."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiohttp import web

from collector.edge import responses
from collector.edge.client_ip import client_address
from collector.edge.collect import Rules
from collector.edge.connection import Connection
from collector.edge.connection_limit import ConnectionLimit
from collector.edge.fast_path import OrdinaryRequests
from collector.edge.refusal import MAX_HEAD_BYTES, MAX_HEAD_LINES, Refusal
from collector.edge.turn_budget import TurnBudget
from collector.metrics import Metrics

# After an answer that did not wait for the body, the rest of it is read and dropped for so long, then the
# connection is closed: closing at once would reset it, and the client would never see the answer.
LINGERING_S = 2.0


class Server(web.Server):
    """The connections to an application that is set up; at most `max_connections` of them.

    `rules` gives the present ones, which a reload may replace.
    """

    def __init__(
        self,
        app: web.AppRunner,
        metrics: Metrics,
        rules: Callable[[], Rules],
        *,
        keepalive_timeout_s: float,
        max_connections: int,
        ordinary: OrdinaryRequests | None,
    ) -> None:
        assert app.server is not None
        super().__init__(app.server.request_handler, request_factory=app.server.request_factory)
        self._metrics = metrics
        self._rules = rules
        self._ordinary = ordinary
        self._turn_budget = TurnBudget()
        self._limit = ConnectionLimit(max_connections)
        self._options: dict[str, Any] = {
            "keepalive_timeout": keepalive_timeout_s,
            "lingering_time": LINGERING_S,
            "auto_decompress": False,  # an encoding is refused, never unpacked
            "access_log": None,
            # The parser bounds lines, each by itself; a head is bounded as a whole.
            "max_line_size": MAX_HEAD_BYTES,
            "max_field_size": MAX_HEAD_BYTES,
            "max_headers": MAX_HEAD_LINES,
        }

    def __call__(self) -> web.RequestHandler:
        connection = Connection(self, loop=asyncio.get_running_loop(), **self._options)
        connection.count_bad_request = self._metrics.bad_requests.inc
        connection.refuse = self._refuse
        connection.head_timeout_s = lambda: self._rules().body_timeout_s
        connection.turn_budget = self._turn_budget
        connection.ordinary = self._ordinary
        return connection

    def _refuse(self, refusal: Refusal | None) -> web.Response:
        """Answer a head that is refused, and count it: for the site that it names, if it can be read."""
        if refusal is None:
            self._metrics.bad_requests.inc()
            return responses.not_http()
        site = None if refusal.site_id is None else self._rules().sites.get(refusal.site_id)
        counts = self._metrics.of_unknown if site is None else self._metrics.of_site(site.id)
        counts.count_dropped(refusal.refused.reason)
        return responses.bad_head(refusal.origin, refusal.refused)

    @property
    def open_connections(self) -> int:
        """How many there are. (`connections` would list them.)"""
        return len(self._limit)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection; where there are too many, one of the oldest that is idle makes room, or else it goes."""
        super().connection_made(handler, transport)
        assert isinstance(handler, Connection)
        self._metrics.connections.inc()
        rules = self._rules()
        address = client_address(handler.peer, (), rules.trusted_proxies)
        bounded = rules.max_connections_per_client and address not in rules.trusted_proxies
        client = rules.buckets.client_of(address) if bounded else None
        going = self._limit.enter(handler, client, rules.max_connections_per_client)
        if going is None:
            return
        leaver, bound = going
        self._metrics.evicted.labels(bound).inc()
        if leaver is handler:
            # Not yet: its task has not begun, and would find it lost.
            asyncio.get_running_loop().call_soon(handler.force_close)
        else:
            cast(Connection, leaver).make_room()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._metrics.connections.dec()
        self._limit.leave(cast(Connection, handler))
