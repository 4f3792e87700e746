"""The worker: one process that serves, from its configuration to its exit code.

Start: take the data_dir, bind both ports, build the stages from the last to the first, listen.
Stop (SIGTERM, SIGINT): take no new connections, answer what is under way, publish everything, exit 0. A second signal
exits at once.
"""

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import aiofiles.os
from aiohttp import web

from collector.addresses import AddressSet
from collector.clock import Clock, SystemClock
from collector.config import Config, ConfigError, load
from collector.edge.app import LINGERING_S, Server, Traffic, build_app
from collector.edge.collect import CollectEndpoint, Rules
from collector.edge.ops import build_admin
from collector.edge.rate_limit import TokenBuckets
from collector.ingest.enrich import client_ip_policy
from collector.journal.flush import Flusher
from collector.journal.journal import Journal
from collector.journal.rejects import RejectedStore, Rejects
from collector.journal.segment import Segment
from collector.metrics import Gauges, Metrics
from collector.parts.writer import Part, PartWriter
from collector.sites import build_sites

log = logging.getLogger(__name__)

WORKER = "0"
BACKLOG = 1024
DISK_CHECK_S = 1.0

# How long a draining worker waits for a request whose first bytes are still on their way: closing a connection at
# once would lose what its client has already sent.
LAST_REQUESTS_S = 0.2


class StartError(Exception):
    """The worker cannot start; the message is one line for the operator."""


def serve(config: Config, config_file: Path) -> int:
    """Run until a signal says stop. The exit code: 0, or 1 if events were lost. Raises StartError."""
    data_dir = config.storage.data_dir
    with _own(data_dir):
        writer = PartWriter(
            data_dir,
            WORKER,
            by_site="site" in config.storage.partition_by,
            compression=config.storage.compression,
        )
        try:
            writer.prepare()
        except OSError as exc:
            raise StartError(f"data_dir {data_dir}: {exc.strerror}: {exc.filename}") from None
        public = _listen(config.server.host, config.server.port, "server")
        admin = _listen(config.admin.host, config.admin.port, "admin")
        return asyncio.run(_Worker(config, config_file, writer, SystemClock()).run(public, admin))


class _Worker:
    """The stages of one process, wired together."""

    def __init__(self, config: Config, config_file: Path, writer: PartWriter, clock: Clock) -> None:
        storage = config.storage
        self._config = config
        self._config_file = config_file
        self._clock = clock
        self._metrics = Metrics()
        self._traffic = Traffic()
        self._stop = asyncio.Event()
        self._journal = Journal(
            segment_max_bytes=storage.segment_max_bytes, journal_max_bytes=storage.journal_max_bytes
        )
        rejects = Rejects(enabled=storage.rejected_max_bytes > 0)
        self._flusher = Flusher(
            self._journal,
            _write_with(writer),
            rejects,
            RejectedStore(writer, storage.rejected_max_bytes),
            interval_s=storage.flush_interval_s,
            clock=clock,
            metrics=self._metrics,
        )
        self._endpoint = CollectEndpoint(self._rules(config, None), self._journal, rejects, self._metrics, clock)

    async def run(self, public: socket.socket, admin: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop)
        loop.add_signal_handler(signal.SIGINT, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await self._check_disk()

        server = self._config.server
        app = web.AppRunner(build_app(self._endpoint, self._traffic))
        await app.setup()
        assert app.server is not None
        listener = web.ServerRunner(
            Server(
                app.server,
                self._metrics,
                keepalive_timeout=server.keepalive_timeout_s,
                lingering_time=LINGERING_S,
                auto_decompress=False,  # an encoding is refused, never unpacked
                access_log=None,
            ),
            shutdown_timeout=server.shutdown_timeout_s,
        )
        await listener.setup()
        ops = web.AppRunner(build_admin(self._journal, self._metrics, self._gauges), access_log=None)
        await ops.setup()
        public_site = web.SockSite(listener, public, backlog=BACKLOG)
        await public_site.start()
        await web.SockSite(ops, admin).start()
        log.info("listening on %s", _url(public))
        log.info("admin on %s", _url(admin))

        background = [loop.create_task(self._flusher.run()), loop.create_task(self._watch_disk())]
        await self._stop.wait()

        log.info("draining: %d requests under way", self._traffic.under_way)
        self._traffic.draining = True
        await public_site.stop()
        await self._last_requests(server.shutdown_timeout_s)
        await listener.cleanup()
        await app.cleanup()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        lost = await self._flusher.drain(server.shutdown_timeout_s)
        await ops.cleanup()
        if lost:
            log.error("stopped; %d acknowledged events could not be written and are lost", lost)
            return 1
        log.info("stopped; every acknowledged event is in a part")
        return 0

    async def _last_requests(self, patience_s: float) -> None:
        """Let what is under way be answered, and what is about to be."""
        await self._clock.sleep(LAST_REQUESTS_S)
        try:
            async with asyncio.timeout(patience_s):
                await self._traffic.idle()
        except TimeoutError:
            log.warning("%d requests were not finished in %g s", self._traffic.under_way, patience_s)

    def _on_stop(self) -> None:
        if self._stop.is_set():
            log.error("second signal: exiting at once; %d events are lost", self._journal.unpublished_rows)
            sys.stderr.flush()
            os._exit(1)
        self._stop.set()

    def _rules(self, config: Config, present: Rules | None) -> Rules:
        """What requests are judged by. Buckets go on across a reload that leaves their limit as it was."""
        if present is not None and present.buckets.limit == config.rate_limit:
            buckets = present.buckets
        else:
            buckets = TokenBuckets(config.rate_limit, self._clock)
        return Rules(
            sites=build_sites(config.sites),
            buckets=buckets,
            trusted_proxies=AddressSet(config.server.trusted_proxies),
            client_ip=client_ip_policy(config.privacy.client_ip, config.storage.data_dir),
            max_body_bytes=config.server.max_body_bytes,
            body_timeout_s=config.server.body_timeout_s,
        )

    def _reload(self) -> None:
        """SIGHUP: sites and limits change at once; a bad file changes nothing."""
        try:
            config = load(self._config_file)
        except ConfigError as exc:
            self._metrics.reloads.labels("failed").inc()
            for line in exc.errors:
                log.error("reload: nothing changed: %s", line)
            return
        for name in _needs_restart(self._config, config):
            log.warning("reload: %s changes only with a restart", name)
        self._endpoint.rules = self._rules(config, self._endpoint.rules)
        self._metrics.reloads.labels("done").inc()
        log.info("reloaded: %d sites", len(config.sites))

    async def _watch_disk(self) -> None:
        while True:
            await self._clock.sleep(DISK_CHECK_S)
            await self._check_disk()

    async def _check_disk(self) -> None:
        storage = self._config.storage
        try:
            disk = await aiofiles.os.statvfs(storage.data_dir)
            low = disk.f_bavail * disk.f_frsize < storage.min_free_bytes
        except OSError as exc:
            log.error("data_dir %s cannot be looked at: %s", storage.data_dir, exc)
            low = True
        if low and not self._journal.disk_low:
            log.error("less than %d bytes free: refusing events", storage.min_free_bytes)
        elif self._journal.disk_low and not low:
            log.info("disk space is back: taking events")
        self._journal.disk_low = low

    def _gauges(self) -> Gauges:
        return {
            "collector_buffered_bytes": (
                "What the unpublished events are charged for",
                self._journal.unpublished_bytes,
            ),
            "collector_rate_limit_clients": (
                "Clients with a token bucket of their own",
                len(self._endpoint.rules.buckets),
            ),
            "collector_requests_under_way": ("Requests being answered", self._traffic.under_way),
            "collector_ready": ("1 while events are taken", int(self._journal.can_append())),
        }


def _write_with(writer: PartWriter) -> Callable[[Segment], list[Part]]:
    return lambda segment: writer.write_events(segment.id, segment.batches, segment.rows_of)


def _needs_restart(old: Config, new: Config) -> list[str]:
    """The changed settings that a running worker cannot take over."""
    live = {"max_body_bytes", "body_timeout_s", "trusted_proxies"}
    return [
        f"{section}.{key}"
        for section in ("server", "admin", "storage")
        for key in type(getattr(old, section)).model_fields
        if key not in live and getattr(getattr(old, section), key) != getattr(getattr(new, section), key)
    ]


class _own:
    """The data_dir, made and locked: the lock dies with the process."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor = -1

    def __enter__(self) -> None:
        path = self._data_dir / "lock"
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"data_dir {self._data_dir}: another collector is using it") from None
        except OSError as exc:
            raise StartError(f"data_dir {self._data_dir}: {exc.strerror}") from None

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _listen(host: str, port: int, section: str) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as exc:
        raise StartError(f"{section}: cannot listen on {host}:{port}: {exc.strerror}") from None
    listening.setblocking(False)
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
