"""More connections than the process has file descriptors."""

import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.support import event
from tests.system.process import serving, wait_until

DESCRIPTORS = 400
EVICTED = "collector_evicted_connections_total"
UNFINISHED = b"POST /public/demo/analytics/collect HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"


def test_unfinished_requests_beyond_the_limit_block_neither_flushes_nor_admin_and_flood_no_log(tmp_path: Path) -> None:
    """Without the limit asyncio wrote 456,126 lines in 12 s, and neither `/readyz` nor a part could be opened."""
    with (
        serving(tmp_path, descriptors=DESCRIPTORS, storage={"flush_interval_s": 0.5}) as process,
        ExitStack() as clients,
    ):
        assert 201 == process.post(event(session_id="before")).status
        address = urlsplit(process.url)
        for _ in range(2 * DESCRIPTORS):
            sock = clients.enter_context(socket.create_connection((address.hostname, address.port), timeout=5))
            with suppress(ConnectionError):  # it may be over the limit already
                sock.sendall(UNFINISHED)
        assert (200, "ready\n") == process.ask("/readyz")
        process.published()
        wait_until(
            lambda: process.metrics().value(EVICTED, bound="all") >= DESCRIPTORS,
            "the connections over the limit are closed",
        )
        clients.close()
        wait_until(lambda: process.metrics().value("collector_connections") == 0, "the connections are closed")
        assert 201 == process.post(event(session_id="after")).status
        assert 0 == process.stop()
        assert ["before", "after"] == [row["session_id"] for row in process.rows()]
        assert len(process.log().splitlines()) < 50
