"""The admin application: liveness, readiness, metrics, version and OpenAPI."""

from typing import Protocol

import ujson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from collector.build import BUILD
from collector.edge.openapi import openapi


class Watched(Protocol):
    """What the admin application reports on: one process, or all workers."""

    def unready_reason(self) -> str | None:
        """Why events are refused now, human-readable. None: they are accepted."""
        ...

    async def metrics_page(self) -> bytes:
        """All metrics, in the Prometheus text format."""
        ...


def build_admin(watched: Watched) -> web.Application:
    """Build the admin application. It has no authentication, so it belongs on loopback."""
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
