"""Records: the bytes of the format must not change, and reading gives back what was written."""

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.events import Event
from collector.journal import record
from collector.journal.record import Damage, Header, NewerFormat, Record, crc_seed, decode_header, encode, scan

ID = "0123456789abcdef"
GOLDEN = Path(__file__).parents[1] / "golden" / "segment-v1.segment"
RECEIVED_US = 1_780_000_000_000_000


def make_event(
    site_id: str = "a",
    received_us: int = RECEIVED_US,
    client_ip: str | None = None,
    user_agent: str | None = "u",
    body: bytes = b"{}",
) -> Event:
    return Event(site_id, received_us, client_ip, user_agent, body, [], 0)


def read(data: bytes, segment_id: str = ID) -> list[Record | Damage]:
    return list(scan(io.BytesIO(data), segment_id))


def kept(found: Record | Damage) -> Event:
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


def test_sample_in_the_description_of_the_format_is_true() -> None:
    sample = re.search(
        r"^ +(ff524543[0-9a-f ]+)$", Path(record.__file__).with_name("record.py").read_text(), re.MULTILINE
    )
    assert sample is not None
    assert bytes.fromhex(sample[1]) == encode([make_event()], crc_seed(ID))


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


def test_damaged_header_is_distinguished_from_a_newer_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "VERSION", 2)
    newer = record.encode_header(Header(ID, by_site=True))
    monkeypatch.undo()
    with pytest.raises(NewerFormat, match="format 2; this collector reads up to 1"):
        decode_header(newer)
    assert decode_header(newer[:-1]) is None
    assert decode_header(newer[:10] + b"?" + newer[11:]) is None
