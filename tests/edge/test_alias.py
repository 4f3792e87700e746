"""The short path `/public/{site}/e`: blockers refuse the contract's own, and both are the same in everything."""

from dataclasses import replace

import pytest

from tests.edge.conftest import Connect, Serve
from tests.edge.faults import FAULTS, Faulty, collector_with, faulty
from tests.edge.wire import head, request, tally
from tests.support import Running, body, event

CONTRACT, SHORT = b"/analytics/collect ", b"/e "
PREFLIGHT = head(
    b"Origin: https://shop.example",
    b"Access-Control-Request-Method: POST",
    b"Access-Control-Request-Headers: content-type",
    method="OPTIONS",
)


def shortened(sent: Faulty) -> Faulty:
    assert 1 == sent.head.count(CONTRACT)
    return replace(sent, head=sent.head.replace(CONTRACT, SHORT))


@pytest.mark.parametrize("fault", ["none", *FAULTS])
async def test_both_paths_get_the_same_answer_and_count(serve: Serve, connect: Connect, fault: str) -> None:
    """Every header but the time in `Date`, and every byte of the body."""
    faults = () if fault == "none" else (fault,)
    answers = []
    for sent in (faulty(*faults), shortened(faulty(*faults))):
        collector = await collector_with(serve, *faults)
        wire = await connect(collector)
        answer = await wire.ask(sent.whole)
        del answer.headers["Date"]
        answers.append((answer.status, [*answer.headers.items()], answer.body, tally(collector, sent.counted_for)))
        await collector.stages.journal.close()
    assert answers[0] == answers[1]
    assert (201 if fault == "none" else answers[0][0], 1) == (answers[1][0], answers[1][3]["received"])


async def test_preflight_is_the_same(collector: Running, connect: Connect) -> None:
    answers = []
    for sent in (PREFLIGHT, PREFLIGHT.replace(CONTRACT, SHORT)):
        answer = await (await connect(collector)).ask(sent)
        del answer.headers["Date"]
        answers.append((answer.status, [*answer.headers.items()], answer.body))
    assert answers[0] == answers[1]
    assert 204 == answers[1][0]


async def test_event_of_the_short_path_is_the_same_row(collector: Running) -> None:
    for path in ("analytics/collect", "e", "e/"):
        async with collector.client.post(f"{collector.url}/public/demo/{path}", json=event(lcp=12)) as response:
            assert 201 == response.status
    await collector.flush()
    rows = [row for row in collector.rows() if row.pop("received_at")]
    assert 3 == len(rows)
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.parametrize("collect_path", ["in", "A.b_~-1", "collect.js"])
async def test_set_path_takes_events_beside_the_default_and_the_contracts(
    serve: Serve, connect: Connect, collect_path: str
) -> None:
    """So a page that has the old path still sends after a change."""
    collector = await serve(tracker={"collect_path": collect_path})
    wire = await connect(collector)
    for path in (collect_path, f"{collect_path}/", "e", "analytics/collect"):
        assert 201 == (await wire.ask(request(body(), target=f"/public/demo/{path}"))).status
    for path in (f"{collect_path}x", "Axb_~-1", f"x/{collect_path}"):
        assert 404 == (await wire.ask(request(body(), target=f"/public/demo/{path}"))).status
    refused = await wire.ask(request(body(), b"X: a\0", target=f"/public/demo/{collect_path}"))
    assert (400, {"received": 5, "stored": 4, "invalid": 1}) == (refused.status, tally(collector))
