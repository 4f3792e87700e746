"""The parts of every crash test: a victim, load on it, a ledger of what it acknowledged, and a verdict.

The load is single events and batches. A batch with an Idempotency-Key that was not answered is sent again, also to the
next victim, until it is answered.

The ledger is kept in the test, outside the victim. The verdict after each round: every acknowledged event is stored
exactly once, nothing is stored that was not sent, each batch is stored whole or not at all, and every part opens.
"""

import asyncio
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.crash.batches import SentBatch, make_batch, one_event
from tests.system import wire
from tests.system.process import COMMAND, READY_S, Process, Settings, run, serving, wait_until

SITES = ("a", "b")
BATCH_SHARE = 0.2
STORAGE = {"flush_interval_s": 0.3, "segment_max_bytes": 65_536}


@dataclass(slots=True)
class Ledger:
    """The session ids of valid events sent, acknowledged and refused, alone or in batches."""

    sent: set[str] = field(default_factory=set)
    acked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)  # answered with another status than 201
    statuses: Counter[int] = field(
        default_factory=Counter
    )  # of events; 201 for each that a batch's answer calls stored
    batches: list[SentBatch] = field(default_factory=list)
    unanswered: list[SentBatch] = field(default_factory=list)  # with a key, to be sent again
    repeated: int = 0  # batches that were sent more than once
    wrong_answers: list[str] = field(default_factory=list)

    def next_id(self) -> str:
        """Make a new session id and record it as sent."""
        made = f"s-{len(self.sent)}"
        self.sent.add(made)
        return made

    def answered(self, session_id: str, status: int) -> None:
        (self.acked if status == 201 else self.refused).add(session_id)
        self.statuses[status] += 1

    def next_batch(self) -> SentBatch:
        """Make a new batch and record its valid events as sent. Two in three have a key."""
        key = f"key-{len(self.batches)}" if random.random() < 0.67 else None
        made = make_batch(random.choice(SITES), self.next_id, key)
        self.batches.append(made)
        return made

    def batch_answered(self, batch: SentBatch, reply: wire.Reply) -> None:
        """Enter the answer. Refused batches with a key are sent again."""
        if reply.status in (201, 202):
            wrong = batch.problem_with(reply)
            if wrong is not None:
                self.wrong_answers.append(wrong)
            for session_id in batch.session_ids:
                self.answered(session_id, 201)
        elif batch.key is not None:
            self.unanswered.append(batch)
        else:
            for session_id in batch.session_ids:
                self.answered(session_id, reply.status)


def victim(without: str = "none") -> tuple[str, ...]:
    """Return the command that starts a collector, without one of its safeguards if `without` names one."""
    if without == "none":
        return COMMAND
    return (sys.executable, str(Path(__file__).with_name("victim.py")), without)


@contextmanager
def victim_serving(
    folder: Path, without: str = "none", prefix: tuple[str, ...] = (), **sections: Any
) -> Iterator[Process]:
    """Start a collector for SITES that flushes several times a second. `prefix`: a wrapper command, such as strace."""
    sections["storage"] = STORAGE | {"data_dir": folder / "data", "min_free_bytes": 0} | sections.get("storage", {})
    sites: Settings = {site: {} for site in SITES}
    with serving(folder, sites, command=(*prefix, *victim(without)), **sections) as process:
        yield process


def acknowledged(ledger: Ledger, events: int = 50) -> None:
    """Wait until the victim has acknowledged this many more events, under the load that is running."""
    enough = len(ledger.acked) + events
    wait_until(lambda: len(ledger.acked) >= enough, f"{events} more events are acknowledged")


def kill(process: Process) -> None:
    """Send SIGKILL and wait for the exit."""
    process.send_signal(signal.SIGKILL)
    process.exit_code()


@contextmanager
def load(url: str, ledger: Ledger, connections: int = 8, *, reconnects: bool = False) -> Iterator[None]:
    """Send events and batches, one at a time on each connection, until the block ends or the victim is gone.

    `reconnects`: a connection that is lost does not mean that the victim is gone.
    """
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_send(url, ledger, connections, stop, reconnects)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive(), "every request gets a response or its connection closes"


def send_batch(url: str, ledger: Ledger, batch: SentBatch) -> None:
    """Send the batch on a new connection. If it is not answered, it is in `ledger.unanswered` then."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        asyncio.run(_send_alone(url, ledger, batch))


def send_unanswered(url: str, ledger: Ledger, within_s: float = READY_S) -> None:
    """Send each unanswered batch again, on new connections, until it is answered. Raises TimeoutError."""

    async def send() -> None:
        async with asyncio.timeout(within_s):
            while ledger.unanswered:
                await _send_alone(url, ledger, ledger.unanswered.pop(0))

    asyncio.run(send())


async def _send_alone(url: str, ledger: Ledger, batch: SentBatch) -> None:
    reader, writer = await wire.connect(url)
    try:
        await _send_batch(reader, writer, ledger, batch)
    finally:
        writer.close()


async def _send(url: str, ledger: Ledger, connections: int, stop: threading.Event, reconnects: bool) -> None:
    async def one_connection() -> None:
        while not stop.is_set():
            try:
                reader, writer = await wire.connect(url)
            except ConnectionError:
                if not reconnects:
                    return
                await asyncio.sleep(0.02)
                continue
            try:
                while not stop.is_set() and await _send_one(reader, writer, ledger):
                    pass
            except (ConnectionError, asyncio.IncompleteReadError):
                # The victim is gone. Its last event or batch, which is not acknowledged, may be stored or not.
                if not reconnects:
                    return
            finally:
                writer.close()

    await asyncio.gather(*(one_connection() for _ in range(connections)))


async def _send_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ledger: Ledger) -> bool:
    """Send an event or a batch. Returns whether the client keeps the connection: one in fifty leaves a batch alone."""
    if ledger.unanswered and random.random() < 0.5:
        ledger.repeated += 1
        return await _send_batch(reader, writer, ledger, ledger.unanswered.pop(0))
    if random.random() < BATCH_SHARE:
        batch = ledger.next_batch()
        if batch.key is not None and random.random() < 0.02:  # the next request with this key meets the first
            writer.write(batch.request)
            ledger.unanswered.append(batch)
            return False
        return await _send_batch(reader, writer, ledger, batch)
    session_id = ledger.next_id()
    writer.write(wire.request(random.choice(SITES), one_event(session_id)))
    reply = await wire.read_reply(reader)
    ledger.answered(session_id, reply.status)
    if reply.status != 201:
        await asyncio.sleep(0.01)
    return True


async def _send_batch(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ledger: Ledger, batch: SentBatch
) -> bool:
    """Returns whether the connection stays open: it closes if a large batch is refused unread."""
    writer.write(batch.request)
    try:
        reply = await wire.read_reply(reader)
    except (ConnectionError, asyncio.IncompleteReadError):
        if batch.key is not None:
            ledger.unanswered.append(batch)
        raise
    ledger.batch_answered(batch, reply)
    if reply.status not in (201, 202):
        await asyncio.sleep(0.01)
    return reply.headers.get("connection") != "close"


class NotRecovered(Exception):
    """`collector recover` failed or reported a problem."""


def recover(folder: Path) -> None:
    """Publish what is left with `collector recover`, with all safeguards. Raises NotRecovered."""
    done = run("recover", "--config", folder / "collector.toml", folder=folder)
    if done.returncode or done.stderr:
        raise NotRecovered(f"exit code {done.returncode}: {done.stderr}")


def published(data_dir: Path) -> Counter[str]:
    """Read every part completely, and count each session id."""
    found: Counter[str] = Counter()
    for path in sorted((data_dir / "events").rglob("*.parquet")):
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        assert table.num_rows, f"{path} is empty"
        found.update(table["session_id"].to_pylist())
    return found


def verdict(data_dir: Path, ledger: Ledger) -> str | None:
    """Return what is wrong in one line, or None. All segments must have been released."""
    left = sorted(path.name for path in (data_dir / "journal").rglob("*.segment"))
    if left:
        return f"segments are left: {left}"
    try:
        found = published(data_dir)
    except Exception as exc:  # noqa: BLE001 - whatever a broken part raises
        return f"a part does not open: {exc}"
    lost = ledger.acked - found.keys()
    twice = [session_id for session_id, count in found.items() if count > 1]
    invented = found.keys() - ledger.sent
    if lost or twice or invented:
        return (
            f"of {len(ledger.acked)} acknowledged events {len(lost)} are lost; "
            f"{len(twice)} are there twice, and {len(invented)} were never sent"
        )
    torn = [batch for batch in ledger.batches if 0 < len(found.keys() & batch.session_ids) < len(batch.session_ids)]
    if torn:
        return f"of {len(ledger.batches)} batches {len(torn)} are there in part"
    return ledger.wrong_answers[0] if ledger.wrong_answers else None


def came_back(data_dir: Path, ledger: Ledger) -> str | None:
    """Return in one line how many refused events are stored, or None. Clients that retry would duplicate them."""
    back = ledger.refused & published(data_dir).keys()
    return f"of {len(ledger.refused)} refused events {len(back)} came back" if back else None
