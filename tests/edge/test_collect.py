"""The collect endpoint, as its clients see it."""

from tests.support import Running, event


async def test_stored_event_is_a_row(collector: Running) -> None:
    response = await collector.post(event(lcp=12))
    assert (response.status, await response.json()) == (201, {"message": "Event received"})
    await collector.flush()
    assert [row["lcp"] for row in collector.rows()] == [12.0]
