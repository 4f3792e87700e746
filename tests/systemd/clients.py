"""An open loop of clients: they send on a fixed timetable, even if earlier requests have no response yet.

Most requests use a new connection, as a browser's do. Some use kept-alive connections, as a proxy's do. These are
counted separately, because HTTP lets a server close such a connection while the next request is on its way.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.crash.rounds import Ledger
from tests.support import event
from tests.system import wire
from tests.system.process import wait_until
from tests.systemd.host import Host

URL = "http://127.0.0.1:8080"
PER_S = 100
STAYING = 4
STAYING_PER_S = 10  # each
ANSWER_S = 60.0
SITE = "demo"


@dataclass(slots=True)
class Seen:
    """Outcomes of the requests, by kind of connection: `fine`, another status, or the name of an exception."""

    own: Counter[str] = field(default_factory=Counter)
    staying: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def sees(self, more: int) -> None:
        """Wait for `more` further 201 responses."""
        enough = self.own["fine"] + more
        wait_until(lambda: self.own["fine"] >= enough, f"{more} more requests get 201", ANSWER_S)

    def failed(self) -> dict[str, int]:
        """The failures on connections that were opened for one request."""
        return {what: count for what, count in self.own.items() if what != "fine"}


@contextmanager
def sending(host: Host, ledger: Ledger, url: str = URL) -> Iterator[Seen]:
    """Send until the block ends, then wait for every response."""
    seen = Seen()
    stop = threading.Event()
    thread = threading.Thread(target=host.on_its_network, args=(lambda: asyncio.run(_send(seen, ledger, stop, url)),))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(2 * ANSWER_S)
        assert not thread.is_alive(), "a request never ended"


async def _send(seen: Seen, ledger: Ledger, stop: threading.Event, url: str) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for _ in range(STAYING):
            group.create_task(_stay(seen, ledger, stop, url))
        began, number = loop.time(), 0
        while not stop.is_set():
            number += 1
            group.create_task(_one(seen, ledger, url))
            await asyncio.sleep(max(0.0, began + number / PER_S - loop.time()))


async def _one(seen: Seen, ledger: Ledger, url: str) -> None:
    """Send one request on a new connection."""
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await wire.connect(url)
            try:
                seen.own[await _ask(reader, writer, ledger)] += 1
            finally:
                writer.close()
    except Exception as exc:  # noqa: BLE001 - a client would see any of them
        seen.own[type(exc).__name__] += 1
    seen.slowest_s = max(seen.slowest_s, asyncio.get_running_loop().time() - began)


async def _stay(seen: Seen, ledger: Ledger, stop: threading.Event, url: str) -> None:
    """Send requests on one connection; open a new one whenever it is closed."""
    while not stop.is_set():
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await wire.connect(url)
        except (OSError, TimeoutError) as exc:
            seen.own[f"{type(exc).__name__} of one that would stay"] += 1
            continue
        try:
            while not stop.is_set():
                async with asyncio.timeout(ANSWER_S):
                    seen.staying[await _ask(reader, writer, ledger)] += 1
                await asyncio.sleep(1 / STAYING_PER_S)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as exc:
            seen.staying[type(exc).__name__] += 1
        finally:
            writer.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ledger: Ledger) -> str:
    session_id = ledger.next_id()
    writer.write(wire.request(SITE, json.dumps(event(session_id=session_id)).encode()))
    reply = await wire.read_reply(reader)
    ledger.answered(session_id, reply.status)
    return "fine" if reply.status == 201 else str(reply.status)
