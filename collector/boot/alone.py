"""One process that serves without a supervisor: it claims the data_dir and both ports, and signals are its boss.

SIGTERM and SIGINT stop it, a second one at once (collector/boot/stop.py); SIGHUP reads the configuration again. Nothing
here starts it again when it dies: systemd does that, and on a small machine the least is the least to go wrong.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from collector.boot.admin import serving_admin
from collector.boot.claims import PATIENCE_S, listen, owned, url
from collector.boot.layout import check_layout
from collector.boot.notify import Manager
from collector.boot.reload import Reloads
from collector.boot.status import Reporter, problems
from collector.boot.stop import StopSignals
from collector.boot.worker import Worker, open_stages, run
from collector.clock import Clock, SystemClock
from collector.config import Config

log = logging.getLogger(__name__)


def serve(config: Config, config_file: Path, inherited: Mapping[str, socket.socket], manager: Manager) -> int:
    """Run until a signal says stop. The exit code: 0, or 1 if events were lost. Raises StartError, ConfigError."""
    with owned(config.storage.data_dir, PATIENCE_S) as data_dir:
        check_layout(config_file, config.storage)  # again: who had it may have flushed while we waited
        with (
            # Before there is a segment: each start that finds a port taken would leave one behind.
            listen(config.server.host, config.server.port, "server", inherited) as public,
            listen(config.admin.host, config.admin.port, "admin", inherited) as admin,
            data_dir.entered() as root,
        ):
            clock = SystemClock()
            stages = open_stages(config, clock, root=root)
            reloads = Reloads(config_file, config, stages.metrics, manager)
            reporter = Reporter(
                manager, clock, data_dir.folder, stages.vitals, lambda: problems(stages.refusal(), reloads.failure)
            )
            signals = Signals(reloads, reporter, manager, clock, public, admin)
            return run(Worker(config, stages, data_dir, clock), public, signals)


class Signals:
    """The boss of a worker that is alone."""

    def __init__(
        self,
        reloads: Reloads,
        reporter: Reporter,
        manager: Manager,
        clock: Clock,
        public: socket.socket,
        admin: socket.socket,
    ) -> None:
        self._reloads = reloads
        self._reporter = reporter
        self._manager = manager
        self._clock = clock
        self._public = public
        self._admin = admin

    @asynccontextmanager
    async def attached(self, worker: Worker) -> AsyncIterator[None]:
        StopSignals(self._clock, worker.stop, worker.exit_at_once).listen()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloads.tell)
        worker.stages.metrics.workers.labels("configured").set(1)
        async with serving_admin(worker.stages, self._admin), self._reporter.reporting():
            yield

    def serving(self) -> None:
        log.info("listening on %s", url(self._public))
        self._manager.ready()

    def draining(self) -> None:
        self._reporter.drain()

    async def orders(self, worker: Worker) -> None:
        """SIGHUP: sites and limits change at once; a bad file changes nothing."""
        await self._reloads.run(worker.take_over)
