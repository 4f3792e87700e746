"""Thousands of connections at once, from ten addresses, against one worker and two."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.wire import head, request
from tests.network.battle import ATTACKERS, MB, PATIENCE_S, costs_at_most, enemies, regular_clients, until
from tests.support import body
from tests.system.process import Process, serving, wait_until

OF_ONE_CLIENT = 100  # max_connections_per_client: low, so that ten addresses can reach it
DESCRIPTORS = 2_600  # OTHER_DESCRIPTORS of them are reserved, which leaves 2,088 for connections
EVICTED = "collector_evicted_connections_total"


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Process]:
    server = {"workers": request.param, "max_connections_per_client": OF_ONE_CLIENT}
    with serving(tmp_path, server=server) as started:
        yield started
        assert 0 == started.stop()


def workers(process: Process) -> int:
    return int(process.metrics().value("collector_workers", state="configured"))


async def metric(process: Process, name: str, **labels: str) -> float:
    """Scrape in a thread, because the clients run in this event loop."""
    return await asyncio.to_thread(lambda: process.metrics().value(name, **labels))


async def test_client_with_too_many_connections_loses_only_its_own_oldest(process: Process) -> None:
    """Ten clients open three times as many as allowed; each keeps its newest."""
    count = 3 * OF_ONE_CLIENT * len(ATTACKERS)
    with costs_at_most(process, 64 * MB):
        async with regular_clients(process), enemies(process, count) as idle:
            bound = OF_ONE_CLIENT * len(ATTACKERS) * workers(process)

            async def is_bounded() -> bool:
                # Regular clients and the scrape have a few connections as well.
                return await metric(process, "collector_connections") <= bound + 20

            await until(is_bounded, "the connections are bounded")
            assert not any(enemy.is_stopped for enemy in idle[-OF_ONE_CLIENT:])
            if workers(process) == 1:  # two workers each evict their own oldest, and do not always share evenly
                assert all(enemy.is_stopped for enemy in idle[: count - bound - OF_ONE_CLIENT])
            assert await metric(process, EVICTED, bound="client") >= count - bound
            assert 0 == await metric(process, EVICTED, bound="all")
    wait_until(lambda: process.metrics().value("collector_connections") == 0, "the connections are closed")


async def test_connections_over_the_total_limit_evict_the_oldest_idle_one(tmp_path: Path) -> None:
    """The limit per client is off; all clients together have too many."""
    server = {"max_connections_per_client": 0}
    with serving(tmp_path, server=server, descriptors=DESCRIPTORS) as process:
        with costs_at_most(process, 64 * MB):
            async with regular_clients(process), enemies(process, DESCRIPTORS) as idle:

                async def is_closed() -> bool:
                    return idle[0].is_stopped and bool(await metric(process, EVICTED, bound="all"))

                await until(is_closed, "the oldest is closed")
                assert not any(enemy.is_stopped for enemy in idle[-OF_ONE_CLIENT:])
        assert 0 == process.stop()


FLOOD_BYTES = 1 * MB  # per connection; the collector reads only what its buffers hold
FLOODS = {
    "events": request(body()),
    "unknown site": request(b"", site="nobody"),
    "many headers": head(*100 * [b"a:"], method="OPTIONS"),
}


@pytest.mark.parametrize("sent", FLOODS.values(), ids=FLOODS)
async def test_pipelined_requests_are_read_one_at_a_time(process: Process, sent: bytes) -> None:
    """A thousand clients send without reading responses. Memory must grow by no more than small read-ahead buffers."""
    flood, count = sent * (FLOOD_BYTES // len(sent)), OF_ONE_CLIENT * len(ATTACKERS)
    with costs_at_most(process, 120 * MB):
        async with regular_clients(process), enemies(process, count, reads=False) as flooding:
            await asyncio.gather(*(enemy.send(flood) for enemy in flooding))
    wait_until(lambda: process.metrics().value("collector_connections") == 0, "the connections are closed", PATIENCE_S)
