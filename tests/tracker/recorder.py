"""The recorder: it stands between pages and the collector, forwards what they send, and keeps all of it.

Pages load the tracker from it and send their events to it. It forwards to the real collector and notes the response, so
tests see both sides. It can also fail in the collector's place: an error status, a hang, a broken connection.
"""

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
from aiohttp import web

from collector.events import CONTRACT

COLLECTOR_S = 20.0
# Not forwarded: they belong to one connection (RFC 9110, 7.6.1), or aiohttp sets them.
HOP_HEADERS = frozenset({"host", "connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})

# No browser accepts it. A connection that is merely closed is not enough: they send the request again on a new one.
BROKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"

Event = dict[str, Any]


@dataclass(slots=True)
class Received:
    """A request for a path below `/public/{site}/`, and the response. `status` is None until there is one."""

    site: str
    method: str
    path: str  # with its query
    headers: dict[str, str]  # names in lower case
    body: bytes
    at: float  # seconds since 1970
    status: int | None = None
    reason: str | None = None  # Collect-Reason
    faulty: bool = False  # the recorder failed it; the collector did not see it

    def __str__(self) -> str:
        answer = f"{self.status} {self.reason or ''}{' (fault)' if self.faulty else ''}"
        text = self.body.decode(errors="replace")
        what = re.findall(r'"(?:event_type|event_time|page_path)":"([^"]*)"', text)
        return f"{self.method} {self.path}: {answer}: {' '.join(what)} {text[:300]}"

    @property
    def is_event(self) -> bool:
        return self.method == "POST"

    @property
    def event(self) -> Event:
        event: Event = json.loads(self.body)
        return event


@dataclass(slots=True)
class Fault:
    """What a site's events get instead of the collector's response.

    `kind`: `status` answers with `status` and `headers`; `hang` does not answer until `mend()`; `broken` is a network
    error for the page; `lost` too, but the collector has received the event. `times`: how many events; None is all,
    until `mend()`.
    """

    kind: str
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = None


class Recorder:
    """Keeps what was received, in order. Its handler runs on the servers' thread; tests read on theirs."""

    def __init__(self, collector: str) -> None:
        self.collector = collector
        self._received: list[Received] = []
        self._changed = threading.Condition()
        self._faults: dict[str, Fault] = {}
        self._client: aiohttp.ClientSession | None = None

    # For tests

    def received(self, site: str) -> list[Received]:
        with self._changed:
            return [each for each in self._received if each.site == site]

    def sites(self) -> list[str]:
        """Every site that received something."""
        with self._changed:
            return sorted({each.site for each in self._received})

    def wait(self, true: Callable[[], bool], within_s: float) -> bool:
        """Wait until `true()`, which is asked after every request and response. Returns whether it became so."""
        with self._changed:
            return self._changed.wait_for(true, within_s)

    def notify(self) -> None:
        """Something else changed that a test may wait for."""
        with self._changed:
            self._changed.notify_all()

    def fail(self, site: str, fault: Fault) -> None:
        self._faults[site] = fault

    def mend(self, site: str) -> None:
        self._faults.pop(site, None)

    # For the servers

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/public/{site}/{rest:.*}", self._handle)
        app.router.add_get("/{script:t(-[0-9a-f]+)?\\.js}", self._handle_script)
        app.cleanup_ctx.append(self._run_client)

    async def _run_client(self, app: web.Application) -> Any:
        if self._client is None:
            # A connection for each request: the collector may have closed a pooled one, and POST is not repeated.
            self._client = aiohttp.ClientSession(
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(COLLECTOR_S),
                connector=aiohttp.TCPConnector(force_close=True),
            )
        yield
        await self._client.close()

    async def _handle_script(self, request: web.Request) -> web.StreamResponse:
        status, headers, body = await self._forward(request, request.path_qs, b"")
        return web.Response(status=status, headers=headers, body=body)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        site, rest = request.match_info["site"], request.match_info["rest"]
        if re.fullmatch(r"t(-[0-9a-f]+)?\.js", rest):
            return await self._handle_script(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        # Noted when its headers are there, so requests keep their order whatever their bodies take.
        received = Received(site, request.method, request.path_qs, headers, b"", time.time())
        received.body = await request.read()
        with self._changed:
            self._received.append(received)
            self._changed.notify_all()
        try:
            return await self._answer(request, received)
        finally:
            self.notify()

    async def _answer(self, request: web.Request, received: Received) -> web.StreamResponse:
        fault = self._next_fault(received)
        received.faulty = fault is not None and fault.kind != "lost"
        if fault is not None and fault.kind == "status":
            received.status = fault.status
            cors = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Retry-After, Collect-Reason"}
            return web.Response(status=fault.status, headers=cors | fault.headers)
        if fault is not None and fault.kind == "hang":
            # Until it is mended: in WebKitGTK, requests without an answer keep the next pages from loading.
            while self._faults.get(received.site) is fault:  # noqa: ASYNC110 - mended by another thread
                await asyncio.sleep(0.02)
        if fault is None or fault.kind == "lost":
            status, headers, body = await self._forward(request, received.path, received.body)
            received.status, received.reason = status, headers.get("Collect-Reason")
            if fault is None:
                return web.Response(status=status, headers=headers, body=body)
        if request.transport is not None:
            request.transport.write(BROKEN)
            request.transport.close()
        return web.Response()

    def _next_fault(self, received: Received) -> Fault | None:
        fault = self._faults.get(received.site)
        if fault is None or not received.is_event:
            return None
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.mend(received.site)
        return fault

    async def _forward(self, request: web.Request, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        assert self._client is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_HEADERS}
        async with self._client.request(
            request.method, self.collector + path, headers=headers, data=body or None, allow_redirects=False
        ) as response:
            answered = {name: value for name, value in response.headers.items() if name.lower() not in HOP_HEADERS}
            return response.status, answered, await response.read()


FIELDS = frozenset(CONTRACT["properties"])

# What the collector adds to a row. `event_time_raw` is not among them: it is null for every time that was sent right.
ADDED = frozenset({"site_id", "received_at", "client_ip", "user_agent", "bot"})


def canonical(event: Event) -> str:
    """An event or row as text: equal values give equal text, whatever their type in JSON and in Parquet."""
    values = {name: _plain(name, value) for name, value in event.items() if value is not None}
    return json.dumps(values, sort_keys=True, default=str)


def _plain(name: str, value: Any) -> Any:
    if name == "event_time":
        when = datetime.fromisoformat(value) if isinstance(value, str) else value
        return when.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return value


def differences(events: list[Event], rows: list[dict[str, Any]]) -> list[str]:
    """What is in only one of the two, in every field of an event: no lines if the rows equal the events."""
    # The collector drops fields that are not in the contract.
    sent = Counter(canonical({name: event[name] for name in event if name in FIELDS}) for event in events)
    stored = Counter(canonical({name: value for name, value in row.items() if name not in ADDED}) for row in rows)
    return [f"sent, not stored: {each}" for each in (sent - stored).elements()] + [
        f"stored, not sent: {each}" for each in (stored - sent).elements()
    ]
