"""How a batch is sent until it is judged: when it is sent again, and in which parts."""

import asyncio
from random import Random

import pytest

from collector.cli.importing.answers import Answer
from collector.cli.importing.batches import NotStored
from collector.cli.importing.sender import GaveUp, Post, Preparer, Request, Sender, Unanswered
from collector.cli.ndjson import Line
from tests.cli.importing.collector import FakeCollector, Fault, InstantClock, answer, refused

NOW = "Thu, 28 May 2026 20:26:40 GMT"
IN_7_S = "Thu, 28 May 2026 20:26:47 GMT"


def lines(count: int) -> list[Line]:
    return [Line(10 + number, b"good %d" % number) for number in range(count)]


def send(
    post: Post, count: int = 2, *, patience_s: float = 600, jitter: float = 0.0, clock: InstantClock | None = None
) -> tuple[list[NotStored], list[float], list[str]]:
    """What was not stored, the waits in seconds, and what it said about them."""
    preparer = Preparer("demo", use_gzip=False)
    clock, told = clock or InstantClock(), list[str]()
    sender = Sender(preparer.request, post, clock, patience_s=patience_s, jitter=lambda: jitter, tell=told.append)
    not_stored = asyncio.run(sender.send(preparer.request(lines(count))))
    return not_stored, clock.waits, told


def failing(*answers: Answer) -> Post:
    """Gives these answers, and then stores everything."""
    left = list(answers)

    async def post(request: Request) -> Answer:
        return left.pop(0) if left else answer(len(request.lines), [])

    return post


@pytest.mark.parametrize(
    ("retry_after", "wait_s"),
    [("3", 3.0), ("0", 0.25), (IN_7_S, 7.0), (NOW, 0.25), ("", 0.25), ("soon", 0.25), ("-1", 0.25), ("\u0661", 0.25)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_wait_is_the_one_that_the_answer_asks_for(status: int, retry_after: str, wait_s: float) -> None:
    """Seconds or a date. Without a readable value the wait is the first of the back-off, half of it at random."""
    asked = failing(refused(status, "Busy", {"retry-after": retry_after}))
    assert ([], [wait_s]) == send(asked)[:2]


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.5), (1.0, 1.0)])
def test_waits_double_up_to_half_a_minute(jitter: float, share: float) -> None:
    """Of each, at least half is certain."""
    _, waits, _ = send(FakeCollector([Fault.BUSY] * 9).post, jitter=jitter)
    assert [share * wait_s for wait_s in (0.5, 1, 2, 4, 8, 16, 30, 30, 30)] == waits


def test_each_wait_is_explained_once() -> None:
    _, _, told = send(FakeCollector([Fault.LIMITED, Fault.LOST_ANSWER]).post)
    assert [
        "lines 10 to 11: 429 Too Many Requests: Too many requests; trying again in 2.0 s",
        "lines 10 to 11: gone; trying again in 0.5 s",
    ] == told


def test_patience_ends_after_its_seconds_without_an_answer_that_counts() -> None:
    """The waits would be 0.25, 0.5, 1, 2, 4 and 8 s, and the last one is not begun."""
    collector = FakeCollector([Fault.BUSY] * 100)
    with pytest.raises(GaveUp, match=r"lines 10 to 11: 503 Service Unavailable: Busy; the next try would be in 4.0 s"):
        send(collector.post, patience_s=6)
    assert 5 == len(collector.requests)


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_import_without_any_answer_gives_up_after_half_a_minute(jitter: float) -> None:
    """A wrong address and a collector that does not run look the same."""
    clock = InstantClock()
    with pytest.raises(GaveUp, match=r"^lines 10 to 11: gone; no request of this import was answered; is --url right"):
        send(FakeCollector([Fault.LOST_REQUEST] * 100).post, jitter=jitter, clock=clock)
    assert 24 < sum(clock.waits) <= 30


def test_import_that_was_answered_once_waits_for_all_of_its_patience() -> None:
    clock = InstantClock()
    with pytest.raises(
        GaveUp, match=r"^lines 10 to 11: gone; the next try would be in 15.0 s, but --patience is 600 s"
    ):
        send(FakeCollector([Fault.BUSY, *[Fault.LOST_REQUEST] * 100]).post, clock=clock)
    assert 585 < sum(clock.waits) <= 600


def test_patience_begins_anew_with_each_part() -> None:
    """Each of the two halves waits for 4 of the 5 seconds."""
    faults = [Fault.NONE, Fault.LIMITED, Fault.LIMITED, Fault.NONE, Fault.LIMITED, Fault.LIMITED]
    assert ([], [2.0] * 4) == send(FakeCollector(faults, bucket=1).post, patience_s=5)[:2]


def test_halves_keep_the_order_of_the_lines() -> None:
    collector = FakeCollector(bucket=2)
    assert ([], []) == send(collector.post, 5)[:2]
    assert [line.body for line in lines(5)] == collector.stored
    assert [5, 2, 3, 1, 2] == [len(request.lines) for request in collector.requests]


NOISE = Random(1).randbytes(2_000).hex().encode()


@pytest.mark.parametrize(
    ("bodies", "sizes"),
    [
        ([NOISE[:1_100], NOISE[1_100:2_200]], [2, 1, 1, 1, 1]),  # larger, plain and packed
        ([b"x" * 3_000] * 2, [2, 1, 1, 2]),  # larger plain, smaller packed
        ([NOISE[:950], NOISE[950:1_900]], [2, 1, 1, 2]),  # larger packed, smaller plain
        ([NOISE], [2, 1, 1, 1]),  # cannot be halved
    ],
)
def test_batch_that_may_fit_is_sent_whole(bodies: list[bytes], sizes: list[int]) -> None:
    """The first batch was too large packed, or plain: nobody knows which. Its two lines are half noise."""
    preparer = Preparer("demo", use_gzip=True)
    requests: list[Request] = []

    async def post(request: Request) -> Answer:
        requests.append(request)
        return refused(413, "Too large") if len(requests) == 1 else answer(len(request.lines), [])

    async def send_both() -> None:
        sender = Sender(
            preparer.request, post, InstantClock(), patience_s=600, jitter=lambda: 0.0, tell=lambda why: None
        )
        for first, batch in ((1, [NOISE[:500] + b"x" * 500] * 2), (3, bodies)):
            await sender.send(preparer.request([Line(first + index, body) for index, body in enumerate(batch)]))

    asyncio.run(send_both())
    assert sizes == [len(request.lines) for request in requests]


def test_unexpected_failures_are_not_hidden() -> None:
    async def post(request: Request) -> Answer:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        send(post)


def test_one_line_is_named_as_one() -> None:
    async def post(request: Request) -> Answer:
        raise Unanswered("gone")

    with pytest.raises(GaveUp, match=r"^line 10: gone; "):
        send(post, 1, patience_s=0.1)
