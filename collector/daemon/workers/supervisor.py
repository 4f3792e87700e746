"""The supervisor: keeps N workers serving on the same sockets, and reports for all of them.

It owns data_dir and all sockets, starts the workers by exec, and passes them the descriptors that they share:

- the public sockets (with SO_REUSEPORT, a worker that dies would lose the connections in its queue)
- data_dir and its lock, which is held until the last worker ends
- the rate limit's table and the connection counts, in shared memory

A worker that dies is replaced at once, or after a delay if that keeps happening. A worker that hangs is killed first.
The replacement recovers its segments while it serves.

Ready (`/readyz`, `collector_ready`) means that at least one worker accepts events. A worker that is being replaced
accepts no connections. One that refuses events responds with 503; taking the whole collector out of service would lose
the events that the other workers accept. `collector_workers` shows how many are ready.

Why not gunicorn, whose arbiter runs aiohttp's workers? It also shares one socket and replaces dead workers, but:

- its workers are interchangeable, while each worker here has a journal that only its replacement may recover
- it forks with the modules it has loaded, while a supervisor that stays small must exec
- it detects a hang by the age of a file that the worker touches
- it has no channel to its workers to fetch metrics, to pass on a checked configuration, or to show that it is dead

It would only wait for child processes.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from collector.clock import Clock, SystemClock
from collector.config import Config
from collector.daemon.admin import serving_admin
from collector.daemon.layout import check_layout
from collector.daemon.public_sockets import public_sockets
from collector.daemon.reload import Reloads
from collector.daemon.resources import PATIENCE_S, StartError, listen, owned, url
from collector.daemon.sd_notify import Manager
from collector.daemon.status import Reporter, Stats, problems
from collector.daemon.stop_signals import StopSignals
from collector.daemon.workers.acceptor import CONNECTION_COUNTS_BYTES, ConnectionCounts
from collector.daemon.workers.aggregate import Family, aggregate, families, to_metrics
from collector.daemon.workers.handle import WorkerHandle, WorkerResources, describe_exit
from collector.edge.rate_limit import BucketTable, table_bytes
from collector.metrics import Gauges, Metrics, page
from collector.portable import Unsupported, shared_memory

log = logging.getLogger(__name__)

HEARTBEAT_S = 1.0
METRICS_S = 2.0  # how long a scrape waits for a worker before it uses the last counters
RELOADED_S = 30.0
SECOND_SIGNAL_S = 1.0  # how long a worker that exits at once may take to log what becomes of its events


def serve(
    config: Config,
    config_file: Path,
    workers: int,
    command: list[str],
    inherited: Mapping[str, socket.socket],
    manager: Manager,
) -> int:
    """Run until a stop signal. Returns 0 if every worker drained cleanly, else 1. Raises StartError and ConfigError."""
    with (
        owned(config.storage.data_dir, PATIENCE_S) as data_dir,
        public_sockets(config.server, inherited) as public,
        listen(config.admin.host, config.admin.port, "admin", inherited) as admin,
    ):
        check_layout(config_file, config.storage)  # again: the previous owner may have flushed before it unlocked
        try:
            table, connection_counts = (
                shared_memory("rate-limit", table_bytes()),
                shared_memory("connections", CONNECTION_COUNTS_BYTES),
            )
        except Unsupported as exc:
            raise StartError(f"server.workers = {config.server.workers}: {exc}; set it to 1") from None
        shared = tuple(bound.fileno() for bound in public)
        resources = WorkerResources(command, workers, data_dir, shared, table, connection_counts)
        return asyncio.run(Supervisor(config, config_file, resources, SystemClock(), manager).run(public, admin))


class Supervisor:
    """Starts, monitors and stops the workers."""

    def __init__(
        self,
        config: Config,
        config_file: Path,
        resources: WorkerResources,
        clock: Clock,
        manager: Manager | None = None,
    ) -> None:
        self._resources = resources
        self._table = BucketTable(file=resources.table)
        self._clock = clock
        self._metrics = Metrics(config.sites)
        self._metrics.workers.labels("configured").set(resources.workers)
        self._manager = manager or Manager()
        self._reloads = Reloads(config_file, config, self._metrics, self._manager)
        self._reporter = Reporter(self._manager, clock, resources.data_dir.folder, self._stats, self._problems)
        connection_counts = ConnectionCounts(resources.connection_counts, resources.workers)
        self._handles = [
            WorkerHandle(number, resources, lambda: self._reloads.running, self._metrics, clock, connection_counts)
            for number in range(resources.workers)
        ]
        self._stop = asyncio.Event()
        self._signals = StopSignals(clock, self._stop.set, self._exit_at_once)

    async def run(self, public: Sequence[socket.socket], admin: socket.socket) -> int:
        """Serve until stopped, then wait until all workers have drained. Returns the exit code. Raises StartError."""
        with self._signals.listening():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloads.request)
            runs = [asyncio.create_task(handle.run()) for handle in self._handles]
            duties = [asyncio.create_task(duty) for duty in (self._heartbeat(), self._reloads.run(self._hand_over))]
            greetings = [
                asyncio.create_task(self._say_when_one_serves()),
                asyncio.create_task(self._say_when_all_serve(public)),
            ]
            async with serving_admin(self, admin), self._reporter.reporting():
                stop = asyncio.create_task(self._stop.wait())
                await asyncio.wait([stop, *runs, *duties], return_when=asyncio.FIRST_COMPLETED)
                self._stop.set()
                self._reporter.drain()
                for handle in self._handles:
                    handle.drain()
                for bound in public:
                    bound.close()  # otherwise clients would wait in its queue for workers that are gone
                await asyncio.wait(runs)
            failed = [task.exception() for task in (*runs, *duties) if task.done() and task.exception()]
            for task in (stop, *greetings, *duties):
                task.cancel()
            await asyncio.gather(stop, *greetings, *duties, return_exceptions=True)
            for exc in failed:
                raise exc or AssertionError
            undrained = [handle for handle in self._handles if handle.exit_code]
            for handle in undrained:
                log.error("worker %d did not drain: %s", handle.number, describe_exit(handle.exit_code))
            return 1 if undrained else 0

    def unready_reason(self) -> str | None:
        """Why no worker accepts events; None if at least one does."""
        if self._stop.is_set():
            return "draining"
        reasons = [handle.unready_reason for handle in self._handles if handle.serves]
        return None if None in reasons else (reasons or ["no worker is serving"])[0]

    async def metrics_page(self) -> bytes:
        """The aggregated metrics of all workers, with the counters of dead ones."""
        fetched = await asyncio.gather(*(handle.fetch_metrics(METRICS_S) for handle in self._handles))
        return await asyncio.to_thread(self._render, [page for of_handle in fetched for page in of_handle])

    def _render(self, pages: Iterable[list[Family]]) -> bytes:
        now_ns = self._clock.monotonic_ns()
        gauges: Gauges = {
            "collector_rate_limit_clients": (
                "Clients whose rate-limit token bucket is not full.",
                self._table.clients(now_ns),
            ),
            "collector_ready": ("1 while at least one worker accepts events, else 0.", 0),
        }
        own = families(self._metrics.families({}, gauges)())
        return page(to_metrics(aggregate([own, *pages])))

    def _stats(self) -> Stats:
        return sum((handle.stats for handle in self._handles), Stats())

    def _problems(self) -> list[str]:
        serving = sum(handle.serves for handle in self._handles)
        missing = [f"{serving} of {len(self._handles)} workers are serving"] if serving < len(self._handles) else []
        return problems(self.unready_reason(), self._reloads.failure) + missing

    async def _say_when_one_serves(self) -> None:
        """Report ready when the first worker serves: from then on waiting connections are served."""
        served = [asyncio.create_task(handle.served.wait()) for handle in self._handles]
        await asyncio.wait(served, return_when=asyncio.FIRST_COMPLETED)
        self._manager.ready()
        for task in served:
            task.cancel()

    async def _say_when_all_serve(self, public: Sequence[socket.socket]) -> None:
        await asyncio.gather(*(handle.served.wait() for handle in self._handles))
        log.info("listening on %s with %d workers", " and ".join(map(url, public)), len(self._handles))

    async def _heartbeat(self) -> None:
        while True:
            for handle in self._handles:
                handle.heartbeat()
            await self._clock.sleep(HEARTBEAT_S)

    def _exit_at_once(self) -> None:
        for handle in self._handles:
            handle.exit_at_once()
        asyncio.get_running_loop().call_later(SECOND_SIGNAL_S, self._kill)

    def _kill(self) -> None:
        for handle in self._handles:
            handle.kill()

    async def _hand_over(self, config: Config) -> None:
        """Send the workers the configuration. It was validated once, here in the supervisor."""
        self._metrics.counts.label(config.sites)
        # A worker that hangs is killed, and its replacement starts with the new configuration.
        with suppress(TimeoutError):
            async with asyncio.timeout(RELOADED_S):
                await asyncio.gather(*(handle.reload() for handle in self._handles))
