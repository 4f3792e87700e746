"""A worker process under a supervisor. It starts with the descriptor of the control channel and gets the rest over it.

Any stop signal makes it drain, even a second one. Ctrl-C in a terminal or a stop by systemd reaches the supervisor and
the workers alike, so a worker's second signal need not be the second that a person sent. When the supervisor dies, the
channel ends and the worker drains. The next supervisor gets data_dir once all workers have ended.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from collector.clock import Clock, SystemClock
from collector.config import Config
from collector.config_file import ConfigError
from collector.daemon.demo import read_demo
from collector.daemon.resources import DataDir, StartError
from collector.daemon.stop_signals import STOP_SIGNALS, StopSignals
from collector.daemon.worker import Accept, Worker, open_stages, run
from collector.daemon.workers.acceptor import Acceptor, ConnectionCounts
from collector.daemon.workers.aggregate import encode as encode_families
from collector.daemon.workers.aggregate import families
from collector.daemon.workers.channel import Channel, encode, framed, receive_first
from collector.edge.rate_limit import BucketTable
from collector.edge.server import Server
from collector.log.setup import set_up_logging
from collector.worker_slot import WorkerSlot

log = logging.getLogger(__name__)


def serve(control: int) -> int:
    """Run until the supervisor says stop or dies. Returns an exit code as `collector serve` does."""
    end = socket.socket(fileno=control)
    end.set_inheritable(False)
    first = receive_first(end)
    if first is None:
        return 1
    _, start = first
    slot = WorkerSlot(start["worker"], start["workers"])
    set_up_logging(worker=slot.worker)
    config, clock = Config.model_validate_json(start["config"]), SystemClock()
    path, *descriptors = start["data_dir"]
    data_dir, table = DataDir(Path(path), *descriptors), BucketTable(file=start["table"])
    with ExitStack() as opened:
        try:
            demo = read_demo(config.tracker)
            root = opened.enter_context(data_dir.entered())
            stages = open_stages(config, clock, slot, table, start["labelled"], root, demo)
        except (StartError, ConfigError) as exc:
            end.sendall(encode("failed", str(exc)))  # the supervisor reports it, once for all workers
            return 1
        public = [socket.socket(fileno=descriptor) for descriptor in start["public"]]
        for bound in public:
            bound.setblocking(False)
        counts = ConnectionCounts(start["connection_counts"], slot.workers)
        worker = Worker(config, stages, data_dir, clock, accepting_with_others(counts, slot))
        return run(worker, public, SupervisorController(end, clock))


def accepting_with_others(counts: ConnectionCounts, slot: WorkerSlot) -> Accept:
    """Accept connections but leave some to the other workers."""

    async def accept(sockets: Sequence[socket.socket], server: Server) -> Callable[[], None]:
        acceptor = Acceptor(sockets, server, lambda: server.open_connections, counts, slot.worker)
        acceptor.open()
        return acceptor.close

    return accept


class SupervisorController:
    """Controls a worker under a supervisor, by messages over the control channel."""

    def __init__(self, end: socket.socket, clock: Clock) -> None:
        self._end = end
        self._clock = clock
        self._channel: Channel
        self._listening: asyncio.Task[None]
        self._reloads = asyncio.Lock()  # held during a reload: one at a time, in order
        self._reloading: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def attached(self, worker: Worker) -> AsyncIterator[None]:
        with StopSignals(self._clock, worker.stop, worker.stop).listening():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # the supervisor blocked them before it started us
            self._channel = await Channel.over(self._end)
            self._listening = asyncio.create_task(self._listen(worker))
            try:
                yield
            finally:
                tasks = [self._listening, *self._reloading]
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)  # asyncio logs a task that failed earlier
                self._channel.close()

    async def commands(self, worker: Worker) -> None:
        await asyncio.shield(self._listening)
        await asyncio.Event().wait()  # the supervisor is dead, and the worker is stopping

    def serving(self) -> None:
        self._channel.send("serving")

    def draining(self) -> None:
        """Nothing to report: the supervisor reports the drain of the entire service."""

    async def _listen(self, worker: Worker) -> None:
        """Handle messages, also while draining, until the channel ends."""
        while message := await self._channel.receive():
            await self._handle(worker, *message)
        if not worker.is_stopping:
            log.error("the supervisor is dead: draining")
        worker.stop()

    async def _reload(self, worker: Worker, config: bytes, number: int, labelled: list[str]) -> None:
        async with self._reloads:
            # In a thread: validating 10,000 sites takes 0.1 s.
            await worker.take_over(await asyncio.to_thread(Config.model_validate_json, config), labelled)
            self._channel.send("reloaded", number)

    async def _handle(self, worker: Worker, kind: str, content: Any) -> None:
        match kind:
            case "heartbeat":
                self._channel.send("heartbeat", [worker.stages.unready_reason(), *worker.stages.stats().values()])
            case "metrics":
                look = worker.stages.families()
                self._channel.send_encoded(
                    await asyncio.to_thread(lambda: framed(f'["metrics",{encode_families(families(look()))}]'.encode()))
                )
            case "reload":
                config = await self._channel.receive_bytes()
                if config is not None:
                    # In a task: a disk that hangs may hold it up, and heartbeats must still be answered.
                    reloading = asyncio.create_task(self._reload(worker, config, **content))
                    self._reloading.add(reloading)
                    reloading.add_done_callback(self._reloading.discard)
            case "drain":
                worker.stop()
            case "exit":
                worker.exit_at_once()
