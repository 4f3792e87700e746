"""What every torture needs: a victim, load on it, a ledger of what it acknowledged, and the verdict.

The ledger is kept here, outside the victim. The verdict after each round: each acknowledged event is there exactly
once, nothing is there that was not sent, and every part opens.
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
from tests.system.process import COMMAND, Process, Settings, run, serving

SITES = ("a", "b")
STORAGE = {"flush_interval_s": 0.3, "segment_max_bytes": 65_536}


@dataclass(slots=True)
class Ledger:
    """What was sent, and what was acknowledged, by session id; both only grow."""

    sent: set[str] = field(default_factory=set)
    acked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)  # answered with something else
    statuses: Counter[int] = field(default_factory=Counter)

    def next_id(self) -> str:
        """An id that is sent from now on."""
        made = f"s-{len(self.sent)}"
        self.sent.add(made)
        return made

    def answered(self, session_id: str, status: int) -> None:
        (self.acked if status == 201 else self.refused).add(session_id)
        self.statuses[status] += 1


def victim(without: str = "none") -> tuple[str, ...]:
    """The command that starts a collector without one of its safeguards."""
    if without == "none":
        return COMMAND
    return (sys.executable, str(Path(__file__).with_name("victim.py")), without)


@contextmanager
def victim_serving(
    folder: Path, without: str = "none", prefix: tuple[str, ...] = (), **sections: Any
) -> Iterator[Process]:
    """A collector of the two SITES that flushes several times a second, started by `prefix` (strace, say)."""
    sections["storage"] = STORAGE | {"data_dir": folder / "data", "min_free_bytes": 0} | sections.get("storage", {})
    sites: Settings = {site: {} for site in SITES}
    with serving(folder, sites, command=(*prefix, *victim(without)), **sections) as process:
        yield process


def kill(process: Process) -> None:
    """SIGKILL, and the victim is gone."""
    process.send_signal(signal.SIGKILL)
    process.exit_code()


@contextmanager
def load(url: str, ledger: Ledger, connections: int = 8) -> Iterator[None]:
    """Send events on so many connections, one after the other on each, until the block is left or the victim gone."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_send(url, ledger, connections, stop)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive(), "the load ends: every request is answered, or its connection closed"


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
            pass  # the victim is gone: whether it kept the last event nobody knows, and both are right
        finally:
            writer.close()

    await asyncio.gather(*(one_connection() for _ in range(connections)))


class NotRecovered(Exception):
    """`collector recover` found something wrong."""


def recover(folder: Path) -> None:
    """Let `collector recover` publish what is left, with every safeguard. Raises NotRecovered."""
    done = run("recover", "--config", folder / "collector.toml", folder=folder)
    if done.returncode or done.stderr:
        raise NotRecovered(f"exit code {done.returncode}: {done.stderr}")


def published(data_dir: Path) -> Counter[str]:
    """How often each session id is in the parts, every one of which is read whole."""
    found: Counter[str] = Counter()
    for path in sorted((data_dir / "events").rglob("*.parquet")):
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        assert table.num_rows, f"{path} is empty"
        found.update(table["session_id"].to_pylist())
    return found


def verdict(data_dir: Path, ledger: Ledger) -> str | None:
    """What is wrong, in one line; None where nothing is. All segments must have been released."""
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
    """Whether events that were refused are in parts all the same, beside their clients' second tries; in one line."""
    back = ledger.refused & published(data_dir).keys()
    return f"of {len(ledger.refused)} refused events {len(back)} came back" if back else None
