"""A server that answers batches from a script, in a thread of its own: commands run in the thread of the test."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support import body

WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Received:
    """One request, with its body, unpacked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def lines(self) -> list[bytes]:
        return self.body.splitlines()

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]


Answer = Callable[[Received], web.StreamResponse | None]
"""Answers a request. None closes the connection without an answer."""


def stored(received: Received) -> web.Response:
    return web.json_response({"message": "Batch received", "stored": len(received.lines)}, status=201)


def refused(status: int, message: str, **headers: str) -> Answer:
    return lambda _: web.json_response(
        {"message": message, "errors": [{"message": message, "code": "x"}]},
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def dropped(received: Received, *indexes: int, status: int = 202, **more: Any) -> web.Response:
    """The answer of a collector that drops the events at these indexes."""
    answer = {
        "message": "Some events were not stored",
        "stored": len(received.lines) - len(indexes),
        "dropped": len(indexes),
        "errors": [{"index": index, "reason": "invalid", "message": f"bad {index}"} for index in indexes[:100]],
    }
    if len(indexes) > 100:
        answer["dropped_indexes"] = list(indexes)
    return web.json_response(answer | more, status=status)


def lost(_: Received) -> None:
    """No answer: the connection is closed."""


@dataclass(slots=True)
class Scripted:
    """The server: what it received, and how it answers. After the script's end it stores everything."""

    url: str
    script: list[Answer] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)

    def bodies(self) -> list[list[bytes]]:
        return [request.lines for request in self.received]

    def keys(self) -> list[str]:
        return [request.key for request in self.received]


@contextmanager
def scripted() -> Iterator[Scripted]:
    """Serve on a free port of 127.0.0.1."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="scripted")
    thread.start()

    def there(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(WITHIN_S)

    server = Scripted("")

    async def answer(request: web.Request) -> web.StreamResponse:
        # aiohttp has unpacked it.
        received = Received(request.method, request.path, dict(request.headers), await request.read())
        server.received.append(received)
        response = (server.script.pop(0) if server.script else stored)(received)
        if response is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return response

    async def begin() -> web.AppRunner:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = there(begin())
    try:
        host, port = runner.addresses[0]
        server.url = f"http://{host}:{port}"
        yield server
    finally:
        there(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WITHIN_S)
        loop.close()


def numbered(count: int, first: int = 1) -> list[bytes]:
    """Valid events that differ: the page is the number."""
    return [body(page_path=f"/{number}") for number in range(first, first + count)]
