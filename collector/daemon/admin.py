"""The admin listener. It opens first and closes last, so operators can watch a drain."""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from collector.daemon.resources import url
from collector.edge.ops import Watched, build_admin

log = logging.getLogger(__name__)


@asynccontextmanager
async def serving_admin(watched: Watched, bound: socket.socket) -> AsyncIterator[None]:
    """Serve the admin application on a listening socket until the block ends."""
    runner = web.AppRunner(build_admin(watched), access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, bound).start()
        log.info("admin on %s", url(bound))
        yield
    finally:
        await runner.cleanup()
