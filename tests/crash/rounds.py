"""The parts of every crash test: a victim, load on it, a ledger of what it acknowledged, and a verdict.

The ledger is kept in the test, outside the victim. The verdict after each round: every acknowledged event is stored
exactly once, nothing is stored that was not sent, and every part opens.
"""

import asyncio
import json
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.support import event
from tests.system import wire
from tests.system.process import COMMAND, Process, Settings, run, serving, wait_until

SITES = ("a", "b")
STORAGE = {"flush_interval_s": 0.3, "segment_max_bytes": 65_536}


@dataclass(slots=True)
class Ledger:
    """The session ids of events sent, acknowledged and refused."""

    sent: set[str] = field(default_factory=set)
    acked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)  # answered with another status than 201
    statuses: Counter[int] = field(default_factory=Counter)

    def next_id(self) -> str:
        """Make a new session id and record it as sent."""
        made = f"s-{len(self.sent)}"
        self.sent.add(made)
        return made

    def answered(self, session_id: str, status: int) -> None:
        (self.acked if status == 201 else self.refused).add(session_id)
        self.statuses[status] += 1


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
def load(url: str, ledger: Ledger, connections: int = 8) -> Iterator[None]:
    """Send events, one at a time on each connection, until the block ends or the victim is gone."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_send(url, ledger, connections, stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive(), "every request gets a response or its connection closes"


async def _send(url: str, ledger: Ledger, connections: int, stop: threading.Event) -> None:
    async def one_connection() -> None:
        try:
            reader, writer = await wire.connect(url)
        except ConnectionError:
            return
        try:
            while not stop.is_set():
                session_id = ledger.next_id()
                data = json.dumps(event(session_id=session_id, page_referrer=random.randint(0, 900) * "x")).encode()
                writer.write(wire.request(random.choice(SITES), data))
                reply = await wire.read_reply(reader)
                ledger.answered(session_id, reply.status)
                if reply.status != 201:
                    await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the victim is gone; its last, unacknowledged event may be stored or not
        finally:
            writer.close()

    await asyncio.gather(*(one_connection() for _ in range(connections)))


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
    return None


def came_back(data_dir: Path, ledger: Ledger) -> str | None:
    """Return in one line how many refused events are stored, or None. Clients that retry would duplicate them."""
    back = ledger.refused & published(data_dir).keys()
    return f"of {len(ledger.refused)} refused events {len(back)} came back" if back else None
