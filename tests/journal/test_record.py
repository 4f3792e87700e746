"""Records: the bytes of the format must not change, and reading gives back what was written."""

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.events import Event
from collector.journal import record
from collector.journal.record import (
    ANSWER_MAX_BYTES,
    KEY_MAX_BYTES,
    Batch,
    Damage,
    EncodedBatch,
    Header,
    NewerFormat,
    Record,
    crc_seed,
    decode_header,
    encode,
    encode_frame,
    scan,
)

ID = "0123456789abcdef"
GOLDEN = Path(__file__).parents[1] / "golden" / "segment-v1.segment"
GOLDEN_BATCHES = GOLDEN.with_name("segment-v1-batches.segment")
RECEIVED_US = 1_780_000_000_000_000


def make_event(
    site_id: str = "a",
    received_us: int = RECEIVED_US,
    client_ip: str | None = None,
    user_agent: str | None = "u",
    body: bytes = b"{}",
) -> Event:
    return Event(site_id, received_us, client_ip, user_agent, body, [], 0)


def read(data: bytes, segment_id: str = ID) -> list[Record | Batch | Damage]:
    return list(scan(io.BytesIO(data), segment_id))


def kept(found: Record | Batch | Damage) -> Event:
    assert isinstance(found, Record)
    return make_event(found.site_id, found.received_us, found.client_ip, found.user_agent, found.body)


GOLDEN_EVENTS = [
    make_event(),
    make_event("site-2", 0, "192.0.2.0", "Mozilla/5.0 (X11; ü)", '{"page_title": "Grüße"}'.encode()),
    make_event("b", -1, "", None, b""),
]


def golden() -> bytes:
    """A segment of version 1. Operators have such files on disk, so they must stay readable forever."""
    header = record.encode_header(Header(ID, by_site=False, contract="00112233445566ff"))
    return header + encode(GOLDEN_EVENTS, crc_seed(ID))


def test_golden_segment_is_written_and_read_unchanged() -> None:
    data = GOLDEN.read_bytes()
    assert data == golden()
    assert Header(ID, by_site=False, contract="00112233445566ff") == decode_header(data)
    assert GOLDEN_EVENTS == [kept(found) for found in read(data[36:])]


def make_batch(events: list[Event], key: bytes = b"k", answer: bytes = b"ok") -> bytes:
    """A frame, and the records of these events, each in a piece of its own."""
    seed = crc_seed(ID)
    pieces = [encode([each], seed) for each in events]
    return encode_frame(EncodedBatch(key, answer, len(events), pieces), seed) + b"".join(pieces)


def test_golden_segment_with_batches_is_written_and_read_unchanged() -> None:
    data = GOLDEN_BATCHES.read_bytes()
    batches = make_batch(GOLDEN_EVENTS, bytes(range(16)), b'{"stored": 3}') + make_batch(GOLDEN_EVENTS[:1], b"", b"")
    assert data == golden() + batches
    found = read(data[36:])
    assert [*3 * [Record], Batch, *3 * [Record], Batch, Record] == [type(each) for each in found]
    answers = [(each.key, each.answer) for each in found if isinstance(each, Batch)]
    assert [(bytes(range(16)), b'{"stored": 3}'), (b"", b"")] == answers


def test_samples_in_the_description_of_the_format_are_true() -> None:
    description = Path(record.__file__).with_name("record.py").read_text()
    samples = re.findall(r"^ +(ff[0-9a-f]{6} [0-9a-f ]+)$", description, re.MULTILINE)
    sample, frame = map(bytes.fromhex, samples)
    assert sample == encode([make_event()], crc_seed(ID))
    assert frame + sample == make_batch([make_event()])


TEXT = st.none() | st.text(max_size=512).filter(lambda text: text.isprintable() or text.isascii())


@given(
    st.lists(
        st.builds(
            make_event,
            st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
            st.integers(-(2**63), 2**63 - 1),
            st.none() | st.text("0123456789abcdef:.", max_size=45),
            TEXT,
            st.binary(max_size=500) | st.just(b"\xffREC") | st.just(b"\xffREC" * 40),
        ),
        max_size=5,
    ),
    st.integers(1, 64),
)
def test_every_event_comes_back_as_it_was(events: list[Event], read_bytes: int) -> None:
    """Even if each read returns only a few bytes."""

    class Drip(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(read_bytes, size) if size and size > 0 else read_bytes)

    data = encode(events, crc_seed(ID))
    assert events == [kept(found) for found in scan(Drip(data), ID)]


def test_record_larger_than_a_read_comes_back() -> None:
    events = [make_event(body=5_000_000 * b"x"), make_event(body=b"y")]
    assert events == [kept(found) for found in read(encode(events, crc_seed(ID)))]


def test_damage_is_distinguished_from_a_torn_tail() -> None:
    good = encode([make_event()], crc_seed(ID))
    bad = good[:-1] + b"?"
    assert [Record, Damage, Record] == [type(found) for found in read(good + bad + good)]
    assert Damage(len(good), 2 * len(good), tail=False) == read(good + bad + good)[1]
    assert Damage(len(good), 2 * len(good), tail=True) == read(good + bad)[1]


FRAME_BYTES = 12 + 13  # without key and answer
THREE = [make_event(body=body) for body in (b"1", b"2", b"3")]
ONE = encode([make_event(body=b"one")], crc_seed(ID))


def told(data: bytes, is_committed: record.Range = record.never) -> list[bytes | str]:
    """What is read, in order: bodies, keys with a colon, and `damage` or `tail`."""
    found: list[bytes | str] = []
    for each in scan(io.BytesIO(data), ID, is_committed):
        match each:
            case Record():
                found.append(each.body)
            case Batch():
                found.append(f"{each.key.decode()}: {each.answer.decode()}")
            case Damage():
                found.append("tail" if each.tail else "damage")
    return found


def test_batch_is_read_with_its_key_and_its_answer() -> None:
    expected = [b"one", "k: ok", b"1", b"2", b"3", b"one", ": ", b"1"]
    assert expected == told(ONE + make_batch(THREE) + ONE + make_batch(THREE[:1], b"", b""))


@pytest.mark.parametrize("answer", [b"", ANSWER_MAX_BYTES * b"x"])
def test_largest_key_and_answer_are_read(answer: bytes) -> None:
    key = KEY_MAX_BYTES * b"k"
    batch, *_ = read(make_batch(THREE, key, answer))
    assert isinstance(batch, Batch)
    assert (key, answer, 3) == (batch.key, batch.answer, batch.events)


def test_batch_larger_than_a_read_is_read_whole_or_not_at_all() -> None:
    """The reader checks all its records, and then goes back to the first."""
    large = make_batch([make_event(body=700_000 * bytes([value])) for value in b"abcdef"])
    assert 7 == len(read(large))
    assert [Damage(0, len(large) - 1, tail=True)] == read(large[:-1])


def test_batch_cut_at_any_byte_is_a_torn_tail_as_a_whole() -> None:
    batch = make_batch(THREE)
    for length in range(1, len(batch)):
        expected = [b"one", "tail"]
        assert expected == told(ONE + batch[:length]), f"cut to {length} bytes"
        (*_, damage) = read(ONE + batch[:length])
        assert Damage(len(ONE), len(ONE) + length, tail=True) == damage


def test_last_batch_with_blocks_missing_is_a_torn_tail_as_a_whole() -> None:
    """Its frame is on the disk, since it is synced first. The file has its full length, and zeros in some places."""
    batch = make_batch(THREE)
    frame = FRAME_BYTES + 3
    for start in range(frame, len(batch)):
        for end in {start + 1, min(start + 40, len(batch)), len(batch)}:
            torn = batch[:start] + bytes(end - start) + batch[end:]
            if torn != batch:
                assert ["tail"] == told(torn), f"zeros from {start} to {end}"


@pytest.mark.parametrize(
    "next_commit", [ONE, make_batch(THREE), make_batch(THREE)[:30]], ids=["event", "batch", "frame"]
)
def test_damaged_batch_in_front_of_another_commit_keeps_its_intact_records(next_commit: bytes) -> None:
    """It was acknowledged, or that commit would not have begun. Even if that commit is torn itself."""
    batch = make_batch(THREE)
    for place in range(FRAME_BYTES + 3, len(batch)):
        damaged = batch[:place] + bytes([batch[place] ^ 1]) + batch[place + 1 :]
        hit = (place - FRAME_BYTES - 3) // len(encode(THREE[:1], crc_seed(ID)))
        expected: list[bytes | str] = ["k: ok", b"1", b"2", b"3"]
        expected[1 + hit] = "damage"
        assert expected == told(damaged + next_commit)[:4], f"byte {place}"


def test_damaged_frame_hides_no_record_behind_it() -> None:
    batch = make_batch(THREE)
    for place in range(FRAME_BYTES + 3):
        for bit in range(8):
            damaged = batch[:place] + bytes([batch[place] ^ 1 << bit]) + batch[place + 1 :]
            assert [b"one", "damage", b"1", b"2", b"3", b"one"] == told(ONE + damaged + ONE), f"bit {bit} of {place}"


def test_damage_in_front_of_a_torn_batch_is_no_part_of_the_tail() -> None:
    """Acknowledged events may be in it, unlike in the batch."""
    bad, torn = ONE[:-1] + b"?", make_batch(THREE)[:-1]
    assert [Damage(0, len(bad), tail=False), Damage(len(bad), len(bad + torn), tail=True)] == read(bad + torn)


def test_damaged_batch_that_is_known_to_be_committed_keeps_its_intact_records() -> None:
    asked = []

    def is_committed(start: int, end: int) -> bool:
        asked.append((start, end))
        return True

    batch = make_batch(THREE)
    assert [b"one", "k: ok", b"1", b"2", "tail"] == told(ONE + batch[:-1], is_committed)
    assert [(len(ONE), len(ONE + batch))] == asked


def test_reader_without_batches_reads_their_records() -> None:
    """So the version of the format is still 1: such a reader takes a frame for some damaged bytes."""
    assert b"\xffREC" not in make_batch(THREE)[: FRAME_BYTES + 3]
    assert make_batch(THREE)[FRAME_BYTES + 3 :] == encode(THREE, crc_seed(ID))


def test_damaged_header_is_distinguished_from_a_newer_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "VERSION", 2)
    newer = record.encode_header(Header(ID, by_site=True))
    monkeypatch.undo()
    with pytest.raises(NewerFormat, match="format 2; this collector reads up to 1"):
        decode_header(newer)
    assert decode_header(newer[:-1]) is None
    assert decode_header(newer[:10] + b"?" + newer[11:]) is None
