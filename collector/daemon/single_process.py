"""A single process that serves without a supervisor. It owns data_dir and both ports, and signals control it.

SIGTERM or SIGINT starts the drain, and a second signal exits at once (collector/daemon/stop_signals.py). SIGHUP reads
the configuration again. If the process dies, systemd restarts it; a small machine needs no second process for that.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from collector.clock import Clock, SystemClock
from collector.config import Config
from collector.daemon.admin import serving_admin
from collector.daemon.demo import read_demo
from collector.daemon.layout import check_layout
from collector.daemon.public_sockets import public_sockets
from collector.daemon.reload import Reloads
from collector.daemon.resources import PATIENCE_S, listen, owned, url
from collector.daemon.sd_notify import Manager
from collector.daemon.status import Reporter, problems
from collector.daemon.stop_signals import StopSignals
from collector.daemon.worker import Worker, open_stages, run

log = logging.getLogger(__name__)


def serve(config: Config, config_file: Path, inherited: Mapping[str, socket.socket], manager: Manager) -> int:
    """Run until a stop signal. Returns 0 after a clean drain, else 1. Raises StartError and ConfigError."""
    demo = read_demo(config.tracker)
    with owned(config.storage.data_dir, PATIENCE_S) as data_dir:
        check_layout(config_file, config.storage)  # again: the previous owner may have flushed before it unlocked
        with (
            # Before the journal opens: otherwise each start that finds a port taken would leave a segment behind.
            public_sockets(config.server, inherited) as public,
            listen(config.admin.host, config.admin.port, "admin", inherited) as admin,
            data_dir.entered() as root,
        ):
            clock = SystemClock()
            stages = open_stages(config, clock, root=root, demo=demo)
            reloads = Reloads(config_file, config, stages.metrics, manager)
            reporter = Reporter(
                manager,
                clock,
                data_dir.folder,
                stages.stats,
                lambda: problems(stages.unready_reason(), reloads.failure),
            )
            signals = SignalController(reloads, reporter, manager, clock, public, admin)
            return run(Worker(config, stages, data_dir, clock), public, signals)


class SignalController:
    """Controls the only worker by signals."""

    def __init__(
        self,
        reloads: Reloads,
        reporter: Reporter,
        manager: Manager,
        clock: Clock,
        public: Sequence[socket.socket],
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
        with StopSignals(self._clock, worker.stop, worker.exit_at_once).listening():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reloads.request)
            worker.stages.metrics.workers.labels("configured").set(1)
            async with serving_admin(worker.stages, self._admin), self._reporter.reporting():
                yield

    def serving(self) -> None:
        log.info("listening on %s", " and ".join(map(url, self._public)))
        self._manager.ready()

    def draining(self) -> None:
        self._reporter.drain()

    async def commands(self, worker: Worker) -> None:
        """Reload on SIGHUP. Sites and limits change at once; an invalid file changes nothing."""
        await self._reloads.run(worker.take_over)
