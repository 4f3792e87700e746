"""The worker: a process that serves, from its configuration to its exit code.

To start, it builds the stages and listens. To stop, it refuses new connections, answers the requests in flight,
publishes everything and exits 0. A controller stops and reloads it: signals in a single process
(collector/daemon/single_process.py), or the supervisor of several workers (collector/daemon/workers/child.py).
"""

import asyncio
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, Protocol

import aiofiles.os
import uvloop

from collector.clock import Clock, sleep_unless
from collector.config import Config
from collector.daemon.loop_lag import watch_loop_lag
from collector.daemon.resources import ACCEPTED_TOGETHER, BACKLOG, DataDir, StartError, max_connections
from collector.daemon.wiring import Stages, build_stages
from collector.edge.rate_limit import BucketTable
from collector.edge.server import Server
from collector.events import COLUMNS
from collector.ingest.bots import load as load_bots
from collector.journal.segment import SegmentBroken
from collector.lake.expire import expire
from collector.parts.table import settle_memory_pool, to_batch
from collector.thread_priority import lower_priority
from collector.threads import UNJOINED
from collector.wording import count
from collector.worker_slot import ONLY_WORKER, WorkerSlot

log = logging.getLogger(__name__)

DISK_CHECK_S = 0.5  # plus the supervisor's heartbeat: events are refused within 2 s after data_dir is gone
DISK_PATIENCE_S = 5.0  # a busy machine may take a second to respond; an unreachable network disk never does
KEYS_CHECK_S = 1.0
MIN_FREE_INODES = 32  # a flush creates a few files at a time, and folders for them
EXPIRE_EVERY_S = 3_600.0

# How long the event loop waits for a thread that runs Python code, as flushes and scrapes do at times. With Python's
# default of 5 ms the loop is late by 5 ms at p50, again and again; with this value by 1 ms (bench/scrape.py).
GIL_SWITCH_S = 0.001

# Garbage collector thresholds; Python's defaults are 700, 10 and 10. Events and connections of the fast path leave no
# cycles to collect (tests/edge/test_server.py). Frequent collections only re-examine events that wait for a commit, and
# each full one all connections: 1,000 of them are 22,000 objects, and 65,000 objects took 20 ms, once a second under
# full load. With these thresholds a full collection comes every half minute; the others examine at most 14,000 objects,
# which takes 6 ms. Broken requests do leave cycles: 40,000 of them take at most 25 MB until they are collected.
GARBAGE_THRESHOLDS = (7_000, 0, 100)

# How long a draining worker waits for requests whose first bytes are still in transit. Closing a connection at once
# would lose a request that its client has already sent.
LAST_REQUESTS_S = 0.2

# How long requests that are still in flight after that may take before their connections close.
CLOSE_S = 0.1


class Controller(Protocol):
    """Stops or reloads a worker, and is notified when it serves and drains."""

    def attached(self, worker: "Worker") -> AbstractAsyncContextManager[None]:
        """A block that lasts from before the worker serves until it has drained."""
        ...

    async def commands(self, worker: "Worker") -> None:
        """Command the worker while it serves. Never returns; if it raises, the worker stops."""
        ...

    def serving(self) -> None:
        """Called when the worker starts to serve."""
        ...

    def draining(self) -> None:
        """Called when the worker stops serving and drains."""
        ...


Accept = Callable[[Sequence[socket.socket], Server], Awaitable[Callable[[], object]]]
"""Accepts connections from the sockets for the server. Returns a function that stops it and closes the sockets."""

# From Python 3.13 on, event loops delete the file of a Unix socket that they close, even if systemd made it.
_KEEP_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}


async def accept_all(
    sockets: Sequence[socket.socket], protocol: Callable[[], asyncio.Protocol]
) -> Callable[[], object]:
    """Accept every connection. For a worker that does not share its sockets."""
    loop = asyncio.get_running_loop()
    closing = ExitStack()
    for bound in sockets:
        if bound.family == socket.AF_UNIX:
            listener = await loop.create_unix_server(protocol, sock=bound, backlog=ACCEPTED_TOGETHER, **_KEEP_FILE)
        else:
            listener = await loop.create_server(protocol, sock=bound, backlog=ACCEPTED_TOGETHER)
        bound.listen(BACKLOG)  # the loop uses `backlog` for listen() too, but means connections to accept per turn
        closing.callback(listener.close)
    return closing.close


def open_stages(
    config: Config,
    clock: Clock,
    slot: WorkerSlot = ONLY_WORKER,
    table: BucketTable | None = None,
    labelled: Iterable[str] | None = None,
    root: Path | None = None,
    demo: Mapping[str, bytes] | None = None,
) -> Stages:
    """Build and open the stages of a worker whose data_dir is locked; see `build_stages`. Raises StartError."""
    stages = build_stages(config, clock, slot, table, labelled, root, demo)
    try:
        stages.open()
    except OSError as exc:
        data_dir = config.storage.data_dir
        raise StartError(f"data_dir {data_dir}: {exc.strerror}: {data_dir / str(exc.filename)}") from None
    except SegmentBroken as exc:
        raise StartError(str(exc)) from None
    return stages


def run(worker: "Worker", public: Sequence[socket.socket], controller: Controller) -> int:
    """Run the worker in a new event loop. Returns the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(worker.run(public, controller))


class Worker:
    """Runs one serving process from start to exit."""

    def __init__(
        self, config: Config, stages: Stages, data_dir: DataDir, clock: Clock, accept: Accept = accept_all
    ) -> None:
        self.stages = stages
        self._accept = accept
        self._config = config
        self._data_dir = data_dir
        self._clock = clock
        self._stop = asyncio.Event()
        self._exit_code: int | None = None  # set after the drain

    async def run(self, public: Sequence[socket.socket], controller: Controller) -> int:
        """Serve until stopped, then drain. Returns the exit code."""
        sys.setswitchinterval(GIL_SWITCH_S)
        # Scrapes, reloads and expiry run in threads of low priority, because no client waits for them.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(initializer=lower_priority))
        await self._check_disk()
        async with controller.attached(self):
            async with self._serving_public(public):
                controller.serving()
                log.info("data_dir is %s; paths in this log are relative to it", self._data_dir.path)
                failed = await self._until_stopped(controller)
                controller.draining()
            self._exit_code = await self._drain() or int(failed)
        return self._exit_code

    def stop(self) -> None:
        """Ask the worker to drain and end. Further calls do nothing."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def exit_at_once(self) -> NoReturn:
        """Exit without waiting for the drain. After the drain, exit with its exit code."""
        if self._exit_code is not None:
            os._exit(self._exit_code)
        journal = self.stages.journal
        fate = "lost" if journal.in_memory else "left in the journal"
        log.error("second signal: exiting at once; %s %s", count(journal.unpublished_rows, "event"), fate)
        sys.stderr.flush()
        os._exit(1)

    async def take_over(self, config: Config, labelled: Iterable[str] | None = None) -> None:
        """Apply a configuration to the requests that follow. `labelled` as for `build_stages`."""
        self.stages.metrics.counts.label(config.sites if labelled is None else labelled)
        self.stages.decider.rules = await asyncio.to_thread(self.stages.rules_of, config, self._clock)
        self._config = config

    async def _drain(self) -> int:
        """Publish as much as possible. Returns the exit code: 1 if events are lost or not known to be safe."""
        journal, patience_s = self.stages.journal, self._config.server.shutdown_timeout_s
        if journal.broken.is_set():
            log.error("stopped; %s left in the journal for the next start", count(journal.unpublished_rows, "event"))
            return 1
        try:
            lost = await self.stages.flusher.drain(patience_s)
        except TimeoutError:
            log.error("the disk does not respond: exiting; acknowledged events are in the journal or in parts")
            sys.stderr.flush()
            os._exit(1)  # an orderly exit would wait forever for the thread that hangs
        with suppress(TimeoutError):  # what it could not write is in a segment, or in its log
            async with asyncio.timeout(patience_s):
                await asyncio.get_running_loop().run_in_executor(UNJOINED, self.stages.answers.close)
        if lost:
            log.error("stopped; lost %s that could not be written", count(lost, "acknowledged event"))
        elif journal.broken.is_set():
            log.error("stopped; %s left in the journal for the next start", count(journal.unpublished_rows, "event"))
        elif journal.sealed:
            log.warning("stopped; %s left in the journal for the next start", count(len(journal.sealed), "segment"))
        else:
            log.info("stopped; every acknowledged event is in a part")
        return 1 if lost or journal.broken.is_set() else 0

    @asynccontextmanager
    async def _serving_public(self, public: Sequence[socket.socket]) -> AsyncIterator[None]:
        """Serve the public sockets. When the block ends, answer the requests in flight and close."""
        settings = self._config.server
        async with AsyncExitStack() as closing:  # callbacks run in reverse order
            server = Server(
                self.stages.decider,
                fast_path=settings.fast_path,
                keepalive_timeout_s=settings.keepalive_timeout_s,
                max_connections=max_connections(),
            )
            await server.open()
            closing.push_async_callback(server.close, CLOSE_S)
            closing.push_async_callback(self._last_requests, settings.shutdown_timeout_s)
            closing.callback(await self._accept(public, server))
            closing.callback(self._begin_to_drain)
            warm_up()
            yield

    def _begin_to_drain(self) -> None:
        in_flight = self.stages.decider.in_flight
        log.info("draining: %s in flight", count(in_flight.count, "request"))
        in_flight.draining = True

    async def _until_stopped(self, controller: Controller) -> bool:
        """Run the background tasks until stopped. True if one ended unexpectedly, or the journal broke."""
        duties = (
            self.stages.flusher.run(),
            self.stages.journal.broken.wait(),
            self._watch_disk(),
            self._tend_keys(),
            watch_loop_lag(self.stages.metrics.loop_lag_seconds),
            self._expire_hourly(),
            controller.commands(self),
        )
        background = [asyncio.create_task(duty) for duty in duties]
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([stop, *background], return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in background if task.done()]
            for ended in failed:
                # Without its flusher, say, it would only fill up. It stops, so its supervisor or systemd restarts it.
                log.critical("cannot continue: stopping", exc_info=ended.exception())
        finally:
            for running in (stop, *background):
                running.cancel()
            await asyncio.gather(stop, *background, return_exceptions=True)
        return bool(failed)

    async def _last_requests(self, patience_s: float) -> None:
        """Wait for the requests in flight, including those whose first bytes are still in transit."""
        await self._clock.sleep(LAST_REQUESTS_S)
        try:
            async with asyncio.timeout(patience_s):
                await self.stages.decider.in_flight.none()
        except TimeoutError:
            requests = count(self.stages.decider.in_flight.count, "request")
            log.warning("%s did not finish within %g s", requests, patience_s)

    async def _watch_disk(self) -> None:
        while True:
            await self._clock.sleep(DISK_CHECK_S)
            looking = asyncio.create_task(self._check_disk())
            await asyncio.wait([looking], timeout=DISK_PATIENCE_S)
            if not looking.done():
                self._refuse("the disk does not respond")
                await looking  # one check at a time: each occupies a thread while the disk hangs
            await self.stages.journal.retry()

    async def _tend_keys(self) -> None:
        """Tend the keys every second. Also at once when an event misses its key, as after a jump of the clock.

        After a failure the next attempt waits its second, however many events miss the key.
        """
        keys = self.stages.keys
        while True:
            if keys.missing_reason is None:
                await sleep_unless(self._clock, KEYS_CHECK_S, keys.missed)
            else:
                await self._clock.sleep(KEYS_CHECK_S)
            keys.missed.clear()
            await asyncio.get_running_loop().run_in_executor(UNJOINED, keys.tend)

    async def _expire_hourly(self) -> None:
        storage = self._config.storage
        while True:
            if storage.retention_days and self.stages.slot.is_first:
                today = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC).date()
                try:
                    root, counter = self.stages.writer.data_dir, self.stages.metrics.expired_parts
                    await asyncio.to_thread(expire, root, today, storage.retention_days, count=counter.inc)
                except OSError as exc:
                    log.warning("could not drop all expired days; retrying in an hour: %s", exc)
            await self._clock.sleep(EXPIRE_EVERY_S)

    async def _check_disk(self) -> None:
        self._refuse(await self._blocked_reason())

    async def _blocked_reason(self) -> str | None:
        """Why events cannot be accepted: data_dir is not where it was, or the disk is full. None if they can."""
        displaced = await asyncio.get_running_loop().run_in_executor(UNJOINED, self._data_dir.displaced)
        if displaced:
            return displaced
        await self.stages.journal.look()
        try:
            folder = self._data_dir.folder
            disk = await aiofiles.os.statvfs(folder, executor=UNJOINED)  # type: ignore[call-arg]  # its types lack it
        except OSError as exc:
            return f"data_dir cannot be checked: {exc.strerror}"
        free_bytes = self.stages.journal.disk_free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < self._config.storage.min_free_bytes:
            return "disk space is low"
        if disk.f_files and disk.f_favail < MIN_FREE_INODES:  # some file systems do not count inodes
            return "the disk is out of inodes"
        return None

    def _refuse(self, blocked_reason: str | None) -> None:
        """Refuse events for this reason; None accepts them again. Logs each change."""
        journal = self.stages.journal
        if blocked_reason != journal.blocked_reason:
            if blocked_reason:
                log.error("refusing events: %s", blocked_reason)
            else:
                log.info("accepting events again")
        journal.blocked_reason = blocked_reason


def warm_up() -> None:
    """Do what would otherwise block the loop when the first events arrive."""
    load_bots()
    settle_memory_pool()
    to_batch([["", *[None] * (len(COLUMNS) - 1)]])
    # Objects made at start-up are never freed. A full collection that examines them takes 50 ms (bench/scrape.py), or
    # 200 ms with 10,000 sites.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
