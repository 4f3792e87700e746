"""The admin application: is it alive, can it store, what did it count, what is it."""

import asyncio
from collections.abc import Callable

import ujson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from collector import VERSION
from collector.edge.openapi import openapi
from collector.events import CONTRACT_HASH
from collector.journal.journal import Journal
from collector.metrics import Gauges, Metrics


def build_admin(journal: Journal, metrics: Metrics, gauges: Callable[[], Gauges]) -> web.Application:
    """The admin application. It belongs on loopback: it asks nobody who they are."""
    page = ujson.dumps(openapi(), indent=2, escape_forward_slashes=False)

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(request: web.Request) -> web.Response:
        if journal.can_append():
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"not ready: {journal.refusing_because()}\n")

    async def numbers(request: web.Request) -> web.Response:
        render = metrics.snapshot(journal.buffered_by_site(), gauges())
        # In a thread: 18,000 series take 0.15 s, and an event must not wait for them.
        body = await asyncio.to_thread(render)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def version(request: web.Request) -> web.Response:
        return web.json_response({"version": VERSION, "contract": CONTRACT_HASH})

    async def contract(request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="application/json")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", numbers)
    app.router.add_get("/version", version)
    app.router.add_get("/openapi.json", contract)
    return app
