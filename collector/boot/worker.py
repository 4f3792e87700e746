"""The worker: one process that serves, from its configuration to its exit code.

Start: claim the data_dir and both ports, build the stages, listen.
Stop (SIGTERM, SIGINT): take no new connections, answer what is under way, publish everything, exit 0. A second
signal exits at once.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiofiles.os
import uvloop
from aiohttp import web

from collector.boot.claims import ACCEPTED_TOGETHER, BACKLOG, StartError, listen, max_connections, owned, url
from collector.boot.lag import watch_lag
from collector.boot.stages import Stages, build_rules, build_stages
from collector.clock import Clock, SystemClock
from collector.config import Config
from collector.config_file import ConfigError, load
from collector.edge.server import Server, fits
from collector.events import COLUMNS
from collector.journal.segment import SegmentBroken
from collector.parts.expire import expire
from collector.parts.table import to_batch

log = logging.getLogger(__name__)

DISK_CHECK_S = 1.0
MIN_FREE_INODES = 32  # a flush makes a few files at a time, and folders
EXPIRE_EVERY_S = 3_600.0

# How long the event loop may wait for a thread that is busy in Python, which a flush and a scrape are at times; Python
# would let it wait 5 ms, again and again. See bench/scrape.py: late by 5 ms at p50 with Python's, by 1 ms with this.
GIL_SWITCH_S = 0.001

# How long a draining worker waits for a request whose first bytes are still on their way: closing a connection
# at once would lose what its client has already sent.
LAST_REQUESTS_S = 0.2


def serve(config: Config, config_file: Path) -> int:
    """Run until a signal says stop. The exit code: 0, or 1 if events were lost. Raises StartError."""
    data_dir = config.storage.data_dir
    with owned(data_dir):
        clock = SystemClock()
        stages = build_stages(config, clock)
        try:
            stages.open()
        except OSError as exc:
            raise StartError(f"data_dir {data_dir}: {exc.strerror}: {exc.filename}") from None
        except SegmentBroken as exc:
            raise StartError(str(exc)) from None
        with (
            listen(config.server.host, config.server.port, "server") as public,
            listen(config.admin.host, config.admin.port, "admin") as admin,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            return runner.run(Worker(config, config_file, stages, clock).run(public, admin))


class Worker:
    """The life of one serving process."""

    def __init__(self, config: Config, config_file: Path, stages: Stages, clock: Clock) -> None:
        self._config = config
        self._config_file = config_file
        self._stages = stages
        self._clock = clock
        self._stop = asyncio.Event()
        self._told_to_reload = asyncio.Event()

    async def run(self, public: socket.socket, admin: socket.socket) -> int:
        """Serve until told to stop, then drain. The exit code."""
        sys.setswitchinterval(GIL_SWITCH_S)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop)
        loop.add_signal_handler(signal.SIGINT, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload.set)
        await self._check_disk()
        async with self._serving_admin(admin):
            async with self._serving_public(public):
                failed = await self._until_stopped()
            code = await self._drain()
        return 1 if failed else code

    async def _drain(self) -> int:
        """Publish what can be. The exit code: 1 if events are lost, or not known to be safe."""
        journal, patience_s = self._stages.journal, self._config.server.shutdown_timeout_s
        if journal.broken.is_set():
            log.error("stopped; %d events stay in the journal for the next start", journal.unpublished_rows)
            return 1
        try:
            lost = await self._stages.flusher.drain(patience_s)
        except TimeoutError:
            log.error("the disk does not answer: exiting; every acknowledged event is in the journal")
            sys.stderr.flush()
            os._exit(1)  # its thread would hold an orderly exit for ever
        if lost:
            log.error("stopped; %d acknowledged events could not be written and are lost", lost)
        elif journal.broken.is_set():
            log.error("stopped; %d events stay in the journal for the next start", journal.unpublished_rows)
        elif journal.sealed:
            log.warning("stopped; %d segments stay in the journal for the next start", len(journal.sealed))
        else:
            log.info("stopped; every acknowledged event is in a part")
        return 1 if lost or journal.broken.is_set() else 0

    @asynccontextmanager
    async def _serving_admin(self, bound: socket.socket) -> AsyncIterator[None]:
        """The admin listener: the first to open and the last to close, so that a drain can be watched."""
        runner = web.AppRunner(self._stages.admin_app(), access_log=None)
        await runner.setup()
        await web.SockSite(runner, bound).start()
        log.info("admin on %s", url(bound))
        yield
        await runner.cleanup()

    @asynccontextmanager
    async def _serving_public(self, bound: socket.socket) -> AsyncIterator[None]:
        """The public listener; on leaving, the requests under way are answered."""
        server, traffic = self._config.server, self._stages.traffic
        app = web.AppRunner(self._stages.public_app())
        await app.setup()
        listener = web.ServerRunner(
            Server(
                app,
                self._stages.metrics,
                keepalive_timeout_s=server.keepalive_timeout_s,
                max_connections=max_connections(),
                ordinary=self._stages.ordinary if fits() else None,
            ),
            shutdown_timeout=0.1,  # what had time to finish has had it by then; aiohttp waits twice
        )
        await listener.setup()
        site = web.SockSite(listener, bound, backlog=ACCEPTED_TOGETHER)
        await site.start()
        bound.listen(BACKLOG)  # asyncio has made it the other number, which it also takes for its own
        warm_up()
        log.info("listening on %s", url(bound))
        yield
        log.info("draining: %d requests under way", traffic.under_way)
        traffic.draining = True
        await site.stop()
        await self._last_requests(server.shutdown_timeout_s)
        await listener.cleanup()
        await app.cleanup()

    async def _until_stopped(self) -> bool:
        """Do every duty until a signal says stop; True if one of them ended by itself, or the journal broke."""
        duties = (
            self._stages.flusher.run(),
            self._stages.journal.broken.wait(),
            self._watch_disk(),
            watch_lag(self._stages.metrics.loop_lag_seconds),
            self._expire_hourly(),
            self._reload_when_told(),
        )
        background = [asyncio.create_task(duty) for duty in duties]
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stop, *background], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in background if task.done()]
        for ended in failed:
            # Without its flusher a collector would only fill up, so it stops and lets its supervisor start it anew.
            log.critical("cannot go on: stopping", exc_info=ended.exception())
        for running in (stop, *background):
            running.cancel()
        await asyncio.gather(stop, *background, return_exceptions=True)
        return bool(failed)

    async def _last_requests(self, patience_s: float) -> None:
        """Let what is under way be answered, and what is about to be."""
        await self._clock.sleep(LAST_REQUESTS_S)
        try:
            async with asyncio.timeout(patience_s):
                await self._stages.traffic.idle()
        except TimeoutError:
            log.warning("%d requests were not finished in %g s", self._stages.traffic.under_way, patience_s)

    def _on_stop(self) -> None:
        if self._stop.is_set():
            journal = self._stages.journal
            fate = "are lost" if journal.in_memory else "stay in the journal"
            log.error("second signal: exiting at once; %d events %s", journal.unpublished_rows, fate)
            sys.stderr.flush()
            os._exit(1)
        self._stop.set()

    async def _reload_when_told(self) -> None:
        """SIGHUP: sites and limits change at once; a bad file changes nothing."""
        while True:
            await self._told_to_reload.wait()
            self._told_to_reload.clear()
            await self._reload()

    async def _reload(self) -> None:
        reloads, endpoint = self._stages.metrics.reloads, self._stages.endpoint
        try:
            # In a thread: a file of 10,000 sites takes 0.8 s.
            config = await asyncio.to_thread(load, self._config_file)
        except ConfigError as exc:
            reloads.labels("failed").inc()
            for line in exc.errors:
                log.error("reload: nothing changed: %s", line)
            return
        for name in _needs_restart(self._config, config):
            log.warning("reload: %s changes only with a restart", name)
        endpoint.rules = await asyncio.to_thread(build_rules, config, self._clock, endpoint.rules)
        reloads.labels("done").inc()
        log.info("reloaded: %d sites", len(config.sites))

    async def _watch_disk(self) -> None:
        while True:
            await self._clock.sleep(DISK_CHECK_S)
            await self._check_disk()
            await self._stages.journal.mend()

    async def _expire_hourly(self) -> None:
        storage = self._config.storage
        while True:
            if storage.retention_days:
                today = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC).date()
                try:
                    dropped = await asyncio.to_thread(expire, storage.data_dir, today, storage.retention_days)
                    self._stages.metrics.expired_parts.inc(dropped)
                except OSError as exc:
                    log.warning("days could not be dropped; tried again in an hour: %s", exc)
            await self._clock.sleep(EXPIRE_EVERY_S)

    async def _check_disk(self) -> None:
        storage, journal = self._config.storage, self._stages.journal
        trouble = None
        try:
            disk = await aiofiles.os.statvfs(storage.data_dir)
            if disk.f_bavail * disk.f_frsize < storage.min_free_bytes:
                trouble = "disk space is low"
            elif disk.f_files and disk.f_favail < MIN_FREE_INODES:  # some file systems do not count them
                trouble = "the disk is out of inodes"
        except OSError as exc:
            trouble = f"data_dir cannot be looked at: {exc.strerror}"
        if trouble != journal.trouble:
            if trouble:
                log.error("refusing events: %s", trouble)
            else:
                log.info("taking events again")
        journal.trouble = trouble


def warm_up() -> None:
    """Do now what would hold the loop when the first events come."""
    # pyarrow's first conversion looks for pandas, and imports it where it is there: 170 ms.
    to_batch([[None] * len(COLUMNS)])
    # What start-up made stays for good: a full collection that looks through it takes 50 ms (bench/scrape.py), and
    # with 10,000 sites 200 ms.
    gc.collect()
    gc.freeze()


def _needs_restart(old: Config, new: Config) -> list[str]:
    """The changed settings that a running worker cannot take over."""
    live = {"max_body_bytes", "body_timeout_s", "trusted_proxies"}
    return [
        f"{section}.{key}"
        for section in ("server", "admin", "storage")
        for key in type(getattr(old, section)).model_fields
        if key not in live and getattr(getattr(old, section), key) != getattr(getattr(new, section), key)
    ]
