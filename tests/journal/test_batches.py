"""Batches in the journal: stored together or not at all, in turns of the event loop, and within its limits."""

import asyncio
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path

import pytest

from collector.events import Event
from collector.journal import journal as module
from collector.journal.buffer import BATCH_BYTES
from collector.journal.journal import WAITING_EVENT_BYTES, Journal
from collector.journal.record import ANSWER_MAX_BYTES, HEADER_BYTES, KEY_MAX_BYTES, Batch, Record, scan
from collector.journal.segment import Segment, SegmentBroken
from collector.journal.submission import AwaitedBatch
from tests.journal.test_commit import Gate, Store, fail, make_journal, sites_in_file, sites_in_memory
from tests.journal.test_journal import make_event, turns
from tests.journal.test_journal import make_journal as journal_in_memory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def journal(tmp_path: Path, store: Store) -> Journal:
    return make_journal(tmp_path, segment_max_bytes=10**9, store=store)


def named(prefix: str, count: int) -> list[Event]:
    return [make_event(f"{prefix}{number}") for number in range(count)]


def submit(journal: Journal, events: list[Event], key: bytes = b"", answer: bytes = b"") -> asyncio.Future[bool]:
    assert journal.can_append()
    batch = AwaitedBatch(events, key, answer)
    journal.submit(batch)
    return batch.stored


def layout(segment: Segment) -> str:
    """The sites of the events in a segment's file, with a bar in front of each batch."""
    assert segment.path is not None
    with segment.path.open("rb") as file:
        file.seek(HEADER_BYTES)
        found = list(scan(file, segment.id))
    assert all(isinstance(each, Record | Batch) for each in found)
    return " ".join(each.site_id if isinstance(each, Record) else "|" for each in found)


async def test_batch_ends_its_commit(journal: Journal, store: Store) -> None:
    """Events that come later are in the next commit, and so is the next batch."""
    gate = Gate(store)
    gate.opened.set()
    single = [asyncio.create_task(journal.append(make_event("a")))]
    await turns()
    outcomes = [submit(journal, named("b", 3))]
    single.append(asyncio.create_task(journal.append(make_event("c"))))
    await turns()
    outcomes += [submit(journal, named("d", 2)), submit(journal, named("e", 1))]
    single.append(asyncio.create_task(journal.append(make_event("f"))))
    assert 6 * [True] == await asyncio.gather(*single, *outcomes)
    assert [4, 3, 1, 1] == gate.groups
    await journal.close()
    assert ["a | b0 b1 b2 c | d0 d1 | e0 f"] == [layout(segment) for segment in journal.sealed]
    assert [sites_in_memory(segment) for segment in journal.sealed] == [
        ["a", "b0", "b1", "b2", "c", "d0", "d1", "e0", "f"]
    ]


async def test_batch_larger_than_a_segment_is_in_one(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, segment_max_bytes=10_000)
    outcomes = [submit(journal, named("a", 50)), submit(journal, named("b", 50))]
    assert [True, True] == await asyncio.gather(*outcomes)
    await journal.close()
    assert [50, 50] == [segment.rows for segment in journal.sealed]


@pytest.mark.parametrize("in_memory", [False, True], ids=["on disk", "in memory"])
async def test_batch_is_encoded_and_buffered_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    """A batch of 10,000 events at once would block the event loop for a tenth of a second."""
    monkeypatch.setattr(module, "ENCODED_AT_ONCE_BYTES", 64_000)
    store = Store(tmp_path)
    journal = journal_in_memory(10**9) if in_memory else make_journal(tmp_path, segment_max_bytes=10**9, store=store)
    turn, encoded, buffered = 0, list[int](), set[int]()

    async def watch() -> None:
        nonlocal turn
        while True:
            rows = journal.unpublished_rows
            turn += 1
            await asyncio.sleep(0)
            assert journal.unpublished_rows - rows <= 64
            if journal.unpublished_rows > rows:
                buffered.add(turn)

    def note_turn(encode: Callable[[list[Event]], bytes], events: list[Event]) -> bytes:
        encoded.append(turn)
        return encode(events)

    store.instead["encode"] = note_turn
    watching = asyncio.create_task(watch())
    stored = submit(journal, named("a", 1_000))
    assert 0 == journal.unpublished_rows
    assert await stored
    await journal.close()
    assert not watching.done()
    watching.cancel()
    assert 1_000 == journal.unpublished_rows
    assert 16 == len(buffered)
    assert (0 if in_memory else 16) == len(set(encoded[1:]))


async def test_batch_in_memory_is_stored_once_all_of_it_is_buffered() -> None:
    journal = journal_in_memory(10**9)
    batch = submit(journal, named("a", 1_000))
    batch.add_done_callback(lambda done: seen.append(journal.unpublished_rows))
    seen: list[int] = []
    closing = asyncio.create_task(journal.close())
    assert await batch
    await closing
    assert [1_000] == seen
    assert [1_000] == [segment.rows for segment in journal.sealed], "an orderly stop waits for it"


async def test_batch_in_memory_fills_segments() -> None:
    journal = journal_in_memory(100_000)
    assert await submit(journal, named("a", 300))
    assert [128, 128] == [segment.rows for segment in journal.sealed]
    assert 44 == journal.unpublished_rows - 256


@pytest.mark.parametrize("in_memory", [False, True], ids=["on disk", "in memory"])
async def test_waiting_batch_counts_against_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    """Its events as if they came alone, and its key and answer."""
    monkeypatch.setattr(module, "WAITING_MAX_BYTES", 10 * (1_000 + WAITING_EVENT_BYTES))
    journal = journal_in_memory(10**9) if in_memory else make_journal(tmp_path, segment_max_bytes=10**9)
    outcome = submit(journal, named("a", 10), b"key", b"answer")
    assert 10 * (1_000 + WAITING_EVENT_BYTES) + 9 == journal.unpublished_bytes
    assert "too many events wait" + (not in_memory) * " for the disk" == journal.unready_reason()
    assert not await journal.append(make_event())
    assert await outcome
    await journal.close()
    assert (0, 10_009) == (journal._waiting_bytes, journal.unpublished_bytes)
    journal.release(journal.sealed[0])
    assert 0 == journal.unpublished_bytes


async def test_failed_commit_refuses_the_whole_batch(journal: Journal, store: Store) -> None:
    """And the events in front of it, but nothing that comes later."""
    calls = 0

    def fail_once(commit: Callable[..., None], *arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(ENOSPC, "No space left on device")
        commit(*arguments)

    store.instead["commit"] = fail_once
    before = asyncio.create_task(journal.append(make_event("a")))
    await turns()
    batch = submit(journal, named("b", 100), b"key", b"answer")
    after = asyncio.create_task(journal.append(make_event("c")))
    assert [False, False, True] == [await before, await batch, await after]
    assert (1, 1_000, 0) == (journal.unpublished_rows, journal.unpublished_bytes, journal._waiting_bytes)
    await journal.retry()
    assert await submit(journal, named("d", 2))
    await journal.close()
    assert ["c | d0 d1"] == [layout(segment) for segment in journal.sealed]


async def test_batches_that_wait_while_a_segment_breaks_are_refused(journal: Journal, store: Store) -> None:
    store.instead["commit"] = fail(SegmentBroken("fsync failed"))
    outcomes = [submit(journal, named("a", 3)), submit(journal, named("b", 3))]
    assert [False, False] == await asyncio.gather(*outcomes)
    assert (True, 0) == (journal.broken.is_set(), journal.unpublished_bytes)
    await journal.close()


@pytest.mark.parametrize("in_memory", [False, True], ids=["on disk", "in memory"])
async def test_bug_in_a_commit_leaves_no_batch_waiting(tmp_path: Path, in_memory: bool) -> None:
    store = Store(tmp_path)
    journal = journal_in_memory(3_000) if in_memory else make_journal(tmp_path, store=store)
    store.instead["commit"] = journal._store.new_id = fail(RuntimeError("a bug"))
    outcomes = [submit(journal, named("a", 3)), submit(journal, named("b", 3))]
    async with asyncio.timeout(10):
        assert [False, False] == await asyncio.gather(*outcomes)
    assert journal.broken.is_set()


async def test_bug_after_the_commit_of_a_batch_does_not_refuse_it(journal: Journal) -> None:
    """It is in the file, so the next start publishes it. A retry would store it twice."""
    bad = make_event(size_bytes=BATCH_BYTES)  # becomes columns at once
    bad.row[-1] = 5  # no text
    outcomes = [submit(journal, [*named("a", 3), bad]), submit(journal, named("b", 3))]
    async with asyncio.timeout(10):
        assert [True, False] == await asyncio.gather(*outcomes)
    assert journal.broken.is_set()


async def test_close_commits_the_batches_that_wait(journal: Journal) -> None:
    outcomes = [submit(journal, named("a", 200)), submit(journal, named("b", 200))]
    await journal.close()
    assert [True, True] == await asyncio.gather(*outcomes)
    assert [400] == [len(sites_in_file(segment)) for segment in journal.sealed]


async def test_sender_of_a_batch_that_is_gone_harms_nothing(journal: Journal) -> None:
    outcome = submit(journal, named("a", 3))
    outcome.cancel()
    assert await journal.append(make_event("b"))
    await journal.close()
    assert ["| a0 a1 a2 b"] == [layout(segment) for segment in journal.sealed]


async def test_answers_of_batches_with_a_key_are_kept_with_the_segment(journal: Journal) -> None:
    await asyncio.gather(submit(journal, named("a", 1), b"1", b"one"), submit(journal, named("b", 1), b"", b"two"))
    await journal.close()
    (segment,) = journal.sealed
    assert segment.buffer is not None
    assert [(b"1", b"one")] == segment.buffer.answers
    assert 4 + 2_000 == segment.size_bytes


@pytest.mark.parametrize(
    ("events", "key_bytes", "answer_bytes"), [(0, 1, 1), (1, KEY_MAX_BYTES + 1, 0), (1, 0, ANSWER_MAX_BYTES + 1)]
)
async def test_batch_that_cannot_be_stored_is_no_batch(events: int, key_bytes: int, answer_bytes: int) -> None:
    """Otherwise its commit would fail, and those of all others."""
    with pytest.raises(
        ValueError, match=f"{events} events, a key of {key_bytes} bytes, an answer of {answer_bytes} bytes"
    ):
        AwaitedBatch(named("a", events), key_bytes * b"k", answer_bytes * b"a")
