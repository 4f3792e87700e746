"""Worker handles: the supervisor's side of each worker process.

A handle starts a worker, sends it heartbeats, fetches its metrics, and starts the next worker when that one dies. A
dead worker's counters are kept at their last fetched values. Otherwise the sum would fall, and Prometheus would see a
counter reset, and count the remaining value as new events.
"""

import asyncio
import logging
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from collector.clock import Clock, sleep_unless
from collector.config import Config
from collector.daemon.resources import DataDir, StartError
from collector.daemon.status import Stats
from collector.daemon.stop_signals import STOP_SIGNALS
from collector.daemon.workers.acceptor import ConnectionCounts
from collector.daemon.workers.aggregate import Family, aggregate, counts
from collector.daemon.workers.channel import Channel, encode, framed
from collector.metrics import Metrics

log = logging.getLogger(__name__)

# How many heartbeats, one a second, may go unanswered. They are counted and not timed, because a supervisor that was
# itself stopped for a minute must not kill its workers. The longest stall measured of a worker's loop is 0.2 s.
HEARTBEATS_UNANSWERED = 10
HEARTBEATS_UNTIL_SERVING = 300  # it imports modules, creates folders and reads the headers of left-over segments

# A worker that lived this long did not fail at start-up, so it is replaced at once.
STEADY_S = 10.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """What every worker starts with. `public`, `table` and `connection_counts` are descriptors."""

    command: list[str]
    workers: int
    data_dir: DataDir
    public: tuple[int, ...]
    table: int
    connection_counts: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.data_dir.folder, self.data_dir.lock, *self.public, self.table, self.connection_counts)


class WorkerHandle:
    """Keeps one worker running in one slot, and replaces it when it dies."""

    def __init__(
        self,
        number: int,
        resources: WorkerResources,
        config: Callable[[], Config],
        metrics: Metrics,
        clock: Clock,
        connection_counts: ConnectionCounts,
    ) -> None:
        self.number = number
        self.served = asyncio.Event()  # set when the first worker serves
        self.serves = False
        self.unready_reason: str | None = None  # as of the last heartbeat reply
        self.stats = Stats()  # as of the last heartbeat reply; `received` includes dead workers
        self.exit_code = 0
        self._resources = resources
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._connection_counts = connection_counts
        self._connection_counts.set_absent(number)
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._unanswered = 0
        self._draining = asyncio.Event()
        self._start_error: str | None = None
        self._past: list[Family] = []  # counters of dead workers
        self._past_received = 0  # events that dead workers received
        self._last: list[Family] = []  # the running worker's metrics, as last fetched
        self._metrics_reply: asyncio.Future[None] | None = None
        self._reloads: dict[int, asyncio.Future[None]] = {}  # unanswered reloads, by number
        self._reload_numbers = count(1)

    async def run(self) -> None:
        """Run workers until `drain` is called. Raises StartError if the first one cannot start."""
        retry_s: float | None = None
        while not self._draining.is_set():
            started_ns = self._clock.monotonic_ns()
            try:
                self.exit_code = await self._run_worker()
            except OSError as exc:  # out of processes or descriptors
                self.exit_code, self._start_error = 1, f"cannot be started: {exc}"
            if self._draining.is_set():
                return
            if self._start_error is not None and not self.served.is_set():
                raise StartError(self._start_error)
            steady = self._clock.monotonic_ns() - started_ns > STEADY_S * 1e9
            retry_s = 0.0 if steady or retry_s is None else min(2 * retry_s, LONGEST_RETRY_S) or FIRST_RETRY_S
            why = self._start_error or describe_exit(self.exit_code)
            when = f"in {retry_s:g} s" if retry_s else "at once"
            log.error("worker %d died (%s); replacing it %s", self.number, why, when)
            self._metrics.worker_restarts.inc()
            await sleep_unless(self._clock, retry_s, self._draining)

    def drain(self) -> None:
        """Make the worker drain and end, and do not replace it."""
        self._draining.set()
        self._send("drain")

    def exit_at_once(self) -> None:
        """Make the worker exit without a drain. It logs what becomes of its events."""
        self._send("exit")

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def heartbeat(self) -> None:
        """Send a heartbeat, or kill the worker if too many went unanswered. Call it every second."""
        if self._process is None:
            return
        self._unanswered += 1
        if self._unanswered > (HEARTBEATS_UNANSWERED if self.serves else HEARTBEATS_UNTIL_SERVING):
            log.error("worker %d hangs: killed", self.number)
            self.kill()
        elif self.serves:
            self._send("heartbeat")

    async def fetch_metrics(self, patience_s: float) -> tuple[list[Family], list[Family]]:
        """The counters of this slot's dead workers, and the metrics of the running one.

        If the running one does not reply within `patience_s`, its last fetched counters without its gauges.
        """
        is_fresh = False
        if self.serves:
            if self._metrics_reply is None:
                self._metrics_reply = asyncio.get_running_loop().create_future()
                self._send("metrics")
            # Scrapes share an unanswered request, even if its own scrape has timed out. The reply is fresh enough: the
            # worker collects its metrics when it reads the request, and only a worker that hangs reads it late.
            reply = self._metrics_reply
            await asyncio.wait([reply], timeout=patience_s)
            is_fresh = reply.done()
        return self._past, self._last if is_fresh else counts(self._last)

    async def reload(self) -> None:
        """Send the worker the current configuration, and wait until the worker uses it. May be cancelled."""
        # In a thread: encoding 10,000 sites takes 30 ms.
        config = await asyncio.to_thread(lambda: framed(self._config().model_dump_json().encode()))
        if self._channel is None:
            return  # no worker runs; the next one starts with this configuration
        number = next(self._reload_numbers)
        answered = self._reloads[number] = asyncio.get_running_loop().create_future()
        try:
            self._send("reload", {"number": number, "labelled": self._metrics.counts.labelled})
            self._channel.send_encoded(config)
            await answered
        finally:
            self._reloads.pop(number, None)

    async def _run_worker(self) -> int:
        """Start a worker and wait until it ends. Returns its exit code."""
        ours, theirs = socket.socketpair()
        with theirs:
            inherited = (theirs.fileno(), *self._resources.descriptors)
            command = [*self._resources.command, "worker", str(self.number), str(theirs.fileno())]
            # Blocked until the worker can handle them, because Ctrl-C in a terminal must not kill a starting worker.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                self._process = await asyncio.create_subprocess_exec(*command, pass_fds=inherited)
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._channel = await Channel.over(ours)
        self._unanswered, self._start_error = 0, None
        data_dir = self._resources.data_dir
        self._send(
            "start",
            {
                **self._settings(),
                "worker": self.number,
                "workers": self._resources.workers,
                "public": self._resources.public,
                "data_dir": [str(data_dir.path), data_dir.folder, data_dir.lock],
                "table": self._resources.table,
                "connection_counts": self._resources.connection_counts,
            },
        )
        if self._draining.is_set():
            self._send("drain")
        await self._listen(self._channel)
        code = await self._process.wait()
        self._channel.close()
        self._worker_died()
        return code

    def _settings(self) -> dict[str, Any]:
        return {"config": self._config().model_dump_json(), "labelled": self._metrics.counts.labelled}

    async def _listen(self, channel: Channel) -> None:
        """Handle messages from the worker until the channel ends."""
        while message := await channel.receive():
            self._handle(*message)

    def _handle(self, kind: str, content: Any) -> None:
        self._unanswered = 0
        match kind:
            case "serving":
                self.serves = True
                self.served.set()
                log.info("worker %d is serving", self.number)
            case "heartbeat":
                self.unready_reason, received, *others = content
                self.stats = Stats(self._past_received + received, *others)
            case "metrics":
                self._last = content
                self._metrics_replied()
            case "reloaded":
                self._reloaded(content)
            case "failed":
                self._start_error = content

    def _worker_died(self) -> None:
        self._connection_counts.set_absent(self.number)
        self._process = self._channel = self.unready_reason = None
        self._past_received = self.stats.received
        self.stats = Stats(self._past_received)
        self.serves = False
        self._past = aggregate([self._past, counts(self._last)])
        self._last = []
        self._metrics_replied()
        for number in list(self._reloads):
            self._reloaded(number)  # the next worker starts with the new configuration

    def _metrics_replied(self) -> None:
        reply, self._metrics_reply = self._metrics_reply, None
        if reply is not None and not reply.done():
            reply.set_result(None)

    def _reloaded(self, number: int) -> None:
        answered = self._reloads.pop(number, None)
        if answered is not None and not answered.done():
            answered.set_result(None)

    def _send(self, kind: str, content: Any = None) -> None:
        if self._channel is not None:
            self._channel.send_encoded(encode(kind, content))


def describe_exit(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    names = {number.value: number.name for number in signal.Signals}  # real-time signals have no names
    return f"killed by {names.get(-exit_code, f'signal {-exit_code}')}"
