"""The worker: a process that serves, from its configuration to its exit code.

Start: build the stages, listen. Stop: take no new connections, answer requests in flight, publish everything, exit 0.
Its controller tells it when: signals (collector/daemon/single_process.py), or a supervisor of several workers
(collector/daemon/workers/child.py).
"""

import asyncio
import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, Protocol

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
from collector.journal.segment import SegmentBroken
from collector.lake.expire import expire
from collector.parts.table import settle_memory_pool, to_batch
from collector.thread_priority import lower_priority
from collector.threads import UNJOINED
from collector.worker_slot import ONLY_WORKER, WorkerSlot

log = logging.getLogger(__name__)

DISK_CHECK_S = 0.5  # with a supervisor's heartbeat, events are refused within two seconds of a data_dir that is gone
DISK_PATIENCE_S = 5.0  # a busy machine may take a second to answer; a network disk that is away never does
KEYS_CHECK_S = 1.0
MIN_FREE_INODES = 32  # a flush makes a few files at a time, and folders
EXPIRE_EVERY_S = 3_600.0

# How long the event loop may wait for a thread that is busy in Python, which a flush and a scrape are at times; Python
# would let it wait 5 ms, again and again. See bench/scrape.py: late by 5 ms at p50 with Python's, by 1 ms with this.
GIL_SWITCH_S = 0.001

# Of the garbage collector; Python's own are 700, 10 and 10. An event leaves nothing to find, and neither does a
# connection of the fast path (tests/edge/test_server.py). So all that is looked at is what waits for a commit, over and
# over, and at each full collection all connections: 22,000 objects of 1,000. (65,000 took 20 ms, once a second under
# full load.) With these a full one comes once in half a minute, and the others look at 14,000 objects at most, 6 ms.
# 40,000 broken requests, which do leave something, take 25 MB until they are found, and no more.
GARBAGE_THRESHOLDS = (7_000, 0, 100)

# How long a draining worker waits for a request whose first bytes are still on their way: closing a connection
# at once would lose what its client has already sent.
LAST_REQUESTS_S = 0.2

# Requests that are still in flight then get this long before their connections close.
CLOSE_S = 0.1


class Controller(Protocol):
    """Who a worker listens to."""

    def attached(self, worker: "Worker") -> AbstractAsyncContextManager[None]:
        """Be there from before the worker serves until it has drained."""
        ...

    async def commands(self, worker: "Worker") -> None:
        """Give commands while the worker serves; may only end by failing, which ends the worker too."""
        ...

    def serving(self) -> None:
        """Hear that the worker serves."""
        ...

    def draining(self) -> None:
        """Hear that it does so no longer, and drains."""
        ...


Accept = Callable[[socket.socket, Server], Awaitable[Callable[[], object]]]
"""Accept connections from the socket for the server; what is returned ends it."""


async def accept_all(bound: socket.socket, server: Server) -> Callable[[], object]:
    """Accept whatever comes: nobody else has the socket."""
    listener = await asyncio.get_running_loop().create_server(server, sock=bound, backlog=ACCEPTED_TOGETHER)
    bound.listen(BACKLOG)  # asyncio has made it the other number, which it also takes for its own
    return listener.close


def open_stages(
    config: Config,
    clock: Clock,
    slot: WorkerSlot = ONLY_WORKER,
    table: BucketTable | None = None,
    labelled: Iterable[str] | None = None,
    root: Path | None = None,
) -> Stages:
    """The stages of a worker whose data_dir is locked; see `build_stages`. Raises StartError."""
    stages = build_stages(config, clock, slot, table, labelled, root)
    try:
        stages.open()
    except OSError as exc:
        data_dir = config.storage.data_dir
        raise StartError(f"data_dir {data_dir}: {exc.strerror}: {data_dir / str(exc.filename)}") from None
    except SegmentBroken as exc:
        raise StartError(str(exc)) from None
    return stages


def run(worker: "Worker", public: socket.socket, controller: Controller) -> int:
    """Run it in an event loop of its own. The exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(worker.run(public, controller))


class Worker:
    """The life of one serving process."""

    def __init__(
        self, config: Config, stages: Stages, data_dir: DataDir, clock: Clock, accept: Accept = accept_all
    ) -> None:
        self.stages = stages
        self._accept = accept
        self._config = config
        self._data_dir = data_dir
        self._clock = clock
        self._stop = asyncio.Event()
        self._exit_code: int | None = None  # once it has drained

    async def run(self, public: socket.socket, controller: Controller) -> int:
        """Serve until told to stop, then drain. The exit code."""
        sys.setswitchinterval(GIL_SWITCH_S)
        # A scrape, a reload, expiry, a look at the disk: nobody waits for them as a client does for an answer.
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
        """Drain and end; once is enough."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def exit_at_once(self) -> NoReturn:
        """For whoever does not want to wait for the drain. Behind it nothing more can be lost."""
        if self._exit_code is not None:
            os._exit(self._exit_code)
        journal = self.stages.journal
        fate = "are lost" if journal.in_memory else "stay in the journal"
        log.error("second signal: exiting at once; %d events %s", journal.unpublished_rows, fate)
        sys.stderr.flush()
        os._exit(1)

    async def take_over(self, config: Config, labelled: Iterable[str] | None = None) -> None:
        """Process requests by this configuration from now on."""
        self.stages.metrics.label(config.sites if labelled is None else labelled)
        self.stages.decider.rules = await asyncio.to_thread(self.stages.rules_of, config, self._clock)
        self._config = config

    async def _drain(self) -> int:
        """Publish what can be. The exit code: 1 if events are lost, or not known to be safe."""
        journal, patience_s = self.stages.journal, self._config.server.shutdown_timeout_s
        if journal.broken.is_set():
            log.error("stopped; %d events stay in the journal for the next start", journal.unpublished_rows)
            return 1
        try:
            lost = await self.stages.flusher.drain(patience_s)
        except TimeoutError:
            log.error("the disk does not answer: exiting; acknowledged events are in the journal or in parts")
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
    async def _serving_public(self, bound: socket.socket) -> AsyncIterator[None]:
        """The public listener; on leaving, the requests in flight are answered."""
        settings = self._config.server
        async with AsyncExitStack() as closing:  # what is pushed first is done last
            server = Server(
                self.stages.decider,
                fast_path=settings.fast_path,
                keepalive_timeout_s=settings.keepalive_timeout_s,
                max_connections=max_connections(),
            )
            await server.open()
            closing.push_async_callback(server.close, CLOSE_S)
            closing.push_async_callback(self._last_requests, settings.shutdown_timeout_s)
            closing.callback(await self._accept(bound, server))
            closing.callback(self._begin_to_drain)
            warm_up()
            yield

    def _begin_to_drain(self) -> None:
        in_flight = self.stages.decider.in_flight
        log.info("draining: %d requests in flight", in_flight.count)
        in_flight.draining = True

    async def _until_stopped(self, controller: Controller) -> bool:
        """Do every duty until a signal says stop; True if one of them ended by itself, or the journal broke."""
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
                # Without its flusher a collector would only fill up, so it stops and lets its supervisor start it anew.
                log.critical("cannot go on: stopping", exc_info=ended.exception())
        finally:
            for running in (stop, *background):
                running.cancel()
            await asyncio.gather(stop, *background, return_exceptions=True)
        return bool(failed)

    async def _last_requests(self, patience_s: float) -> None:
        """Wait for the requests in flight, and for those whose first bytes are still on their way."""
        await self._clock.sleep(LAST_REQUESTS_S)
        try:
            async with asyncio.timeout(patience_s):
                await self.stages.decider.in_flight.none()
        except TimeoutError:
            log.warning("%d requests were not finished in %g s", self.stages.decider.in_flight.count, patience_s)

    async def _watch_disk(self) -> None:
        while True:
            await self._clock.sleep(DISK_CHECK_S)
            looking = asyncio.create_task(self._check_disk())
            await asyncio.wait([looking], timeout=DISK_PATIENCE_S)
            if not looking.done():
                self._refuse("the disk does not answer")
                await looking  # no second look beside it: each takes a thread for as long
            await self.stages.journal.retry()

    async def _tend_keys(self) -> None:
        """Every second, and as soon as a key was missed, as when the clock has leapt; but not over and over in vain."""
        keys = self.stages.keys
        while True:
            if keys.blocked_reason is None:
                await sleep_unless(self._clock, KEYS_CHECK_S, keys.missed)
            else:
                await self._clock.sleep(KEYS_CHECK_S)
            keys.missed.clear()
            await asyncio.get_running_loop().run_in_executor(UNJOINED, self.stages.tend_keys)

    async def _expire_hourly(self) -> None:
        storage = self._config.storage
        while True:
            if storage.retention_days and self.stages.slot.is_first:
                today = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC).date()
                try:
                    root, count = self.stages.writer.data_dir, self.stages.metrics.expired_parts.inc
                    await asyncio.to_thread(expire, root, today, storage.retention_days, count=count)
                except OSError as exc:
                    log.warning("days could not be dropped; tried again in an hour: %s", exc)
            await self._clock.sleep(EXPIRE_EVERY_S)

    async def _check_disk(self) -> None:
        self._refuse(await self._blocked_reason())

    async def _blocked_reason(self) -> str | None:
        """What keeps events from being taken: a data_dir that is not where it was, or a disk that is full."""
        displaced = await asyncio.get_running_loop().run_in_executor(UNJOINED, self._data_dir.displaced)
        if displaced:
            return displaced
        await self.stages.journal.look()
        try:
            folder = self._data_dir.folder
            disk = await aiofiles.os.statvfs(folder, executor=UNJOINED)  # type: ignore[call-arg]  # its types lack it
        except OSError as exc:
            return f"data_dir cannot be looked at: {exc.strerror}"
        free_bytes = self.stages.journal.disk_free_bytes = disk.f_bavail * disk.f_frsize
        if free_bytes < self._config.storage.min_free_bytes:
            return "disk space is low"
        if disk.f_files and disk.f_favail < MIN_FREE_INODES:  # some file systems do not count them
            return "the disk is out of inodes"
        return None

    def _refuse(self, blocked_reason: str | None) -> None:
        """Take no events until this is over; None: take them."""
        journal = self.stages.journal
        if blocked_reason != journal.blocked_reason:
            if blocked_reason:
                log.error("refusing events: %s", blocked_reason)
            else:
                log.info("taking events again")
        journal.blocked_reason = blocked_reason


def warm_up() -> None:
    """Do now what would hold the loop when the first events come."""
    settle_memory_pool()
    # pyarrow's first conversion looks for pandas, and imports it where it is there: 170 ms.
    to_batch([[None] * len(COLUMNS)])
    # What start-up made stays for good: a full collection that looks through it takes 50 ms (bench/scrape.py), and
    # with 10,000 sites 200 ms.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
