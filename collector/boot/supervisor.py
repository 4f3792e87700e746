"""The supervisor: keeps N workers serving on one socket, and speaks for all of them.

It claims the data_dir and both ports, starts the workers by exec, and hands each, by descriptor, what they share: the
public socket (whose queue no dead worker takes along, as it would with SO_REUSEPORT), the lock of the data_dir (which
so lives as long as any of them), and the table of the rate limit. A worker that dies is replaced at once, or after a
while if it does so again and again; one that hangs is killed first. Its segments are recovered by its replacement,
beside serving.

Ready (`/readyz`, `collector_ready`) means that one worker takes events. A worker that is being replaced accepts no
connection, so it costs nothing; one that refuses events answers 503 where its siblings would not have, but to be taken
out of service for it would lose what those do take. `collector_workers` tells how many are ready.

Why not gunicorn, whose arbiter runs aiohttp's workers? It shares its socket as we do, and replaces what dies. But to it
all workers are alike, and here each has a journal, which its successor must recover and nobody else may touch. It forks
what it has loaded, where an arbiter that stays small must exec; it tells a hang by the age of a file that the worker
touches; and it has no channel to its workers: to ask for numbers, to hand a checked configuration to all, to let them
know that it is dead. What would be left to it is waiting for children.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from collector.boot.admin import serving_admin
from collector.boot.claims import PATIENCE_S, StartError, listen, owned, url
from collector.boot.door import CROWDS_BYTES, Crowds
from collector.boot.keeper import Keeper, Shared, how
from collector.boot.layout import check_layout
from collector.boot.notify import Manager
from collector.boot.reload import Reloads
from collector.boot.status import Reporter, Vitals, problems
from collector.boot.stop import StopSignals
from collector.clock import Clock, SystemClock
from collector.config import Config
from collector.edge.rate_limit import BucketTable, table_bytes
from collector.metrics import Gauges, Metrics, page
from collector.portable import Unsupported, shared_memory
from collector.sums import Family, families, summed, to_metrics

log = logging.getLogger(__name__)

BEAT_S = 1.0
NUMBERS_S = 2.0  # how long a scrape waits for a worker; then it shows what that one said last
RELOADED_S = 30.0
SECOND_SIGNAL_S = 1.0  # how long a worker that is to exit at once may take to say what that costs


def serve(
    config: Config,
    config_file: Path,
    workers: int,
    command: list[str],
    inherited: Mapping[str, socket.socket],
    manager: Manager,
) -> int:
    """Run until a signal says stop. The exit code: 0, or 1 if a worker lost events. Raises StartError, ConfigError."""
    with (
        owned(config.storage.data_dir, PATIENCE_S) as data_dir,
        listen(config.server.host, config.server.port, "server", inherited) as public,
        listen(config.admin.host, config.admin.port, "admin", inherited) as admin,
    ):
        check_layout(config_file, config.storage)  # again: who had it may have flushed while we waited
        try:
            table, crowds = shared_memory("rate-limit", table_bytes()), shared_memory("connections", CROWDS_BYTES)
        except Unsupported as exc:
            raise StartError(f"server.workers = {config.server.workers}: {exc}; set it to 1") from None
        shared = Shared(command, workers, data_dir, public.fileno(), table, crowds)
        return asyncio.run(Supervisor(config, config_file, shared, SystemClock(), manager).run(public, admin))


class Supervisor:
    """All workers, as one."""

    def __init__(
        self, config: Config, config_file: Path, shared: Shared, clock: Clock, manager: Manager | None = None
    ) -> None:
        self._shared = shared
        self._table = BucketTable(file=shared.table)
        self._clock = clock
        self._metrics = Metrics(config.sites)
        self._metrics.workers.labels("configured").set(shared.workers)
        self._manager = manager or Manager()
        self._reloads = Reloads(config_file, config, self._metrics, self._manager)
        self._reporter = Reporter(self._manager, clock, shared.data_dir.folder, self._vitals, self._problems)
        crowds = Crowds(shared.crowds, shared.workers)
        self._keepers = [
            Keeper(number, shared, lambda: self._reloads.running, self._metrics, clock, crowds)
            for number in range(shared.workers)
        ]
        self._stop = asyncio.Event()
        self._signals = StopSignals(clock, self._stop.set, self._exit_at_once)

    async def run(self, public: socket.socket, admin: socket.socket) -> int:
        """Serve until told to stop, then until all workers have drained. The exit code. Raises StartError."""
        self._signals.listen()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloads.tell)
        keeping = [asyncio.create_task(keeper.keep()) for keeper in self._keepers]
        duties = [asyncio.create_task(duty) for duty in (self._beat(), self._reloads.run(self._hand_over))]
        greetings = [
            asyncio.create_task(self._say_when_one_serves()),
            asyncio.create_task(self._say_when_all_serve(public)),
        ]
        async with serving_admin(self, admin), self._reporter.reporting():
            stop = asyncio.create_task(self._stop.wait())
            await asyncio.wait([stop, *keeping, *duties], return_when=asyncio.FIRST_COMPLETED)
            self._stop.set()
            self._reporter.drain()
            for keeper in self._keepers:
                keeper.drain()
            public.close()  # nobody may wait in it for workers that are gone
            await asyncio.wait(keeping)
        failed = [task.exception() for task in (*keeping, *duties) if task.done() and task.exception()]
        for task in (stop, *greetings, *duties):
            task.cancel()
        await asyncio.gather(stop, *greetings, *duties, return_exceptions=True)
        for exc in failed:
            raise exc or AssertionError
        undrained = [keeper for keeper in self._keepers if keeper.exit_code]
        for keeper in undrained:
            log.error("worker %d did not drain: %s", keeper.number, how(keeper.exit_code))
        return 1 if undrained else 0

    def refusal(self) -> str | None:
        """Why no event would be taken; None where one worker takes them."""
        if self._stop.is_set():
            return "draining"
        refusals = [keeper.refusal for keeper in self._keepers if keeper.serves]
        return None if None in refusals else (refusals or ["no worker serves"])[0]

    async def metrics_page(self) -> bytes:
        """The sums over all workers, dead ones included in what only grows."""
        numbers = await asyncio.gather(*(keeper.ask_numbers(NUMBERS_S) for keeper in self._keepers))
        return await asyncio.to_thread(self._render, [page for of_keeper in numbers for page in of_keeper])

    def _render(self, pages: Iterable[list[Family]]) -> bytes:
        now_ns = self._clock.monotonic_ns()
        gauges: Gauges = {
            "collector_rate_limit_clients": ("Clients whose token bucket is not full", self._table.clients(now_ns)),
            "collector_ready": ("1 while events are taken", 0),
        }
        own = families(self._metrics.families({}, gauges)())
        return page(to_metrics(summed([own, *pages])))

    def _vitals(self) -> Vitals:
        return sum((keeper.vitals for keeper in self._keepers), Vitals())

    def _problems(self) -> list[str]:
        serving = sum(keeper.serves for keeper in self._keepers)
        missing = [f"{serving} of {len(self._keepers)} workers serve"] if serving < len(self._keepers) else []
        return problems(self.refusal(), self._reloads.failure) + missing

    async def _say_when_one_serves(self) -> None:
        """Then whoever waits to be accepted is served: ready, as in `/readyz`."""
        served = [asyncio.create_task(keeper.served.wait()) for keeper in self._keepers]
        await asyncio.wait(served, return_when=asyncio.FIRST_COMPLETED)
        self._manager.ready()
        for task in served:
            task.cancel()

    async def _say_when_all_serve(self, public: socket.socket) -> None:
        await asyncio.gather(*(keeper.served.wait() for keeper in self._keepers))
        log.info("listening on %s with %d workers", url(public), len(self._keepers))

    async def _beat(self) -> None:
        while True:
            for keeper in self._keepers:
                keeper.beat()
            await self._clock.sleep(BEAT_S)

    def _exit_at_once(self) -> None:
        for keeper in self._keepers:
            keeper.exit_at_once()
        asyncio.get_running_loop().call_later(SECOND_SIGNAL_S, self._kill)

    def _kill(self) -> None:
        for keeper in self._keepers:
            keeper.kill()

    async def _hand_over(self, config: Config) -> None:
        """The file was checked once, here; what the workers get is good."""
        self._metrics.label(config.sites)
        with suppress(TimeoutError):  # who does not answer will be killed, and its replacement starts with the new one
            async with asyncio.timeout(RELOADED_S):
                await asyncio.gather(*(keeper.reload() for keeper in self._keepers))
