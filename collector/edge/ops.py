"""The admin application: is it alive, can it store, what did it count, what is it."""

from typing import Protocol

import ujson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from collector.build import BUILD
from collector.edge.openapi import openapi


class Watched(Protocol):
    """What the admin application tells of: one worker, or all of them."""

    def unready_reason(self) -> str | None:
        """Why no event would be taken now, for a person; None if it would."""
        ...

    async def metrics_page(self) -> bytes:
        """All metrics, in the format of Prometheus."""
        ...


def build_admin(watched: Watched) -> web.Application:
    """The admin application. It belongs on loopback: it asks nobody who they are."""
    page = ujson.dumps(openapi(), indent=2, escape_forward_slashes=False)

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def readyz(request: web.Request) -> web.Response:
        unready_reason = watched.unready_reason()
        if unready_reason is None:
            return web.Response(text="ready\n")
        return web.Response(status=503, text=f"not ready: {unready_reason}\n")

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=await watched.metrics_page(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def version(request: web.Request) -> web.Response:
        return web.json_response(BUILD)

    async def contract(request: web.Request) -> web.Response:
        return web.Response(text=page, content_type="application/json")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/version", version)
    app.router.add_get("/openapi.json", contract)
    return app
