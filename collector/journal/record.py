"""Records: the format of a segment file, to write accepted events and to read them back.

A segment file is a header followed by records, with nothing in between. All numbers are little-endian.

    header, 36 bytes
      0  magic      8  "collseg" and a line feed
      8  version    4  1
     12  segment    8  the segment's id
     20  contract   8  start of the SHA-256 of the contract that validated the events
     28  layout     1  1: parts by site and day, 2: parts by day only; then three zero bytes
     32  crc        4  CRC-32 of the first 32 bytes

    record
      0  mark       4  FF "REC": UTF-8 never contains FF, so a reader can find the next record after damage
      4  length     4  length of the payload
      8  crc        4  CRC-32 of segment id, length and payload
     12  payload

    payload
      0  received   8  microseconds since the epoch, signed
      8  site       1  length of the site id
      9  client_ip  1  length of the stored address plus one; 0: no address is stored
     10  user_agent 2  length of the user agent plus one; 0: there was none
     12  site id, client_ip, user_agent, and the body as received (of a sender with a key: without the visitor's
         address and user agent)

    batch frame, in front of the records of a batch
      0  mark       4  FF "BAT"
      4  length     4  length of the payload
      8  crc        4  CRC-32 of segment id, length and payload
     12  payload

    payload of a batch frame
      0  records    4  length of the batch's records, which follow the frame
      4  crc        4  CRC-32 of segment id and these records
      8  events     4  their number
     12  key        1  length of the key; 0: the batch has none
     13  key, and the answer that its sender gets

Each CRC includes the segment's id. After a power cut, a file system can return blocks of an older segment in place of
this one's (ext4 with `data=writeback`); their CRCs do not match. The id is also in the file's name, so damage to the
header loses no record.

A sample record of segment 0123456789abcdef: site `a`, body `{}`, no address, and user agent `u`:

    ff524543 10000000 39ee6148 0040b38be6520600 01 00 0200 61 75 7b7d

A batch of this record, with the key `k` and the answer `ok`, begins with this frame:

    ff424154 10000000 c92aca9c 1c000000 b990aac5 01000000 01 6b 6f6b

A batch is recovered whole or not at all. It is the end of its commit, and its frame is synced before its records are
written: so after a power cut, whichever blocks of its records are on the disk, its frame is there. If its records are
not all there, what follows them decides. The next commit begins once the batch is committed, so after a valid record or
frame the batch was acknowledged, and its intact records count. With nothing valid behind it, it never was, and none of
its records counts.

A reader that knows no batch frames takes one for some damaged bytes, and reads the records. So the version is still 1.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, NamedTuple

from collector.events import CONTRACT_HASH, Event

JOURNAL = "journal"  # the folder of all segments
VERSION = 1
MAGIC = b"collseg\n"
HEADER_BYTES = 36

_HEADER = struct.Struct("<8sI8s8sB3x")
_CRC: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<4sII")
_FIXED: Final = struct.Struct("<qBBH")
_BATCH_FIXED: Final = struct.Struct("<IIIB")
_MARK: Final = b"\xffREC"
_BATCH_MARK: Final = b"\xffBAT"
_ANY_MARK = re.compile(rb"\xff(?:REC|BAT)")
_MARK_BYTES = 4
_BY_SITE, _BY_DAY = 1, 2

# The largest body that the configuration allows (16 MiB), plus room for the other fields. A damaged length above this
# limit is detected at once. Below the limit, the reader reads that many bytes before it searches for the next record.
_MAX_PAYLOAD = 17 << 20
_READ_BYTES = 1 << 20

KEY_MAX_BYTES: Final = 255
ANSWER_MAX_BYTES: Final = 256 << 10
_MAX_BATCH_PAYLOAD: Final = _BATCH_FIXED.size + KEY_MAX_BYTES + ANSWER_MAX_BYTES


class NewerFormat(Exception):
    """The segment was written by a later version of the collector."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a segment's header."""

    segment_id: str
    by_site: bool
    contract: str = CONTRACT_HASH


class Record(NamedTuple):
    """An accepted event, as it was acknowledged. `start` and `end` are its byte offsets in the file."""

    start: int
    end: int
    site_id: str
    received_us: int
    client_ip: str | None
    user_agent: str | None
    body: bytes


class Batch(NamedTuple):
    """The frame of a batch, whose records follow, up to `records_end`."""

    start: int
    end: int
    records_end: int
    records_crc: int
    events: int
    key: bytes
    answer: bytes


class EncodedBatch(NamedTuple):
    """A batch, ready to be written. `records` are its records, in pieces."""

    key: bytes
    answer: bytes
    events: int
    records: list[bytes]


class Damage(NamedTuple):
    """A range of bytes that holds no valid record. A `tail` extends to the end of the file."""

    start: int
    end: int
    tail: bool


def encode_header(header: Header) -> bytes:
    """Encode a header as HEADER_BYTES bytes."""
    layout = _BY_SITE if header.by_site else _BY_DAY
    packed = _HEADER.pack(MAGIC, VERSION, bytes.fromhex(header.segment_id), bytes.fromhex(header.contract), layout)
    return packed + _CRC.pack(zlib.crc32(packed))


def decode_header(data: bytes) -> Header | None:
    """Decode the header at the start of `data`. Returns None if it is damaged or cut short. Raises NewerFormat."""
    packed, crc = data[: _HEADER.size], data[_HEADER.size : HEADER_BYTES]
    if len(crc) < _CRC.size or _CRC.pack(zlib.crc32(packed)) != crc:
        return None
    magic, version, segment_id, contract, layout = _HEADER.unpack(packed)
    if magic != MAGIC:
        return None
    if version > VERSION:
        raise NewerFormat(f"format {version}; this collector reads up to {VERSION}")
    return Header(segment_id.hex(), layout != _BY_DAY, contract.hex())


def crc_seed(segment_id: str) -> int:
    """The initial value for the CRCs of a segment's records."""
    return zlib.crc32(bytes.fromhex(segment_id))


def encode(events: Iterable[Event], seed: int) -> bytes:
    """Encode events as records, one after the other."""
    pieces: list[bytes] = []
    for event in events:
        client_ip, user_agent = event.client_ip, event.user_agent
        site = event.site_id.encode()
        ip = b"" if client_ip is None else client_ip.encode()
        agent = b"" if user_agent is None else user_agent.encode()
        fixed = _FIXED.pack(
            event.received_us,
            len(site),
            0 if client_ip is None else len(ip) + 1,
            0 if user_agent is None else len(agent) + 1,
        )
        payload = b"".join((fixed, site, ip, agent, event.body))
        pieces.append(_FRAME.pack(_MARK, len(payload), _crc(seed, payload)))
        pieces.append(payload)
    return b"".join(pieces)


def encode_frame(batch: EncodedBatch, seed: int) -> bytes:
    """Encode the frame in front of a batch's records. Takes 3 ms for 16 MiB, mostly without the GIL."""
    records_bytes, records_crc = 0, seed
    for piece in batch.records:
        records_bytes += len(piece)
        records_crc = zlib.crc32(piece, records_crc)
    fixed = _BATCH_FIXED.pack(records_bytes, records_crc, batch.events, len(batch.key))
    payload = b"".join((fixed, batch.key, batch.answer))
    return _FRAME.pack(_BATCH_MARK, len(payload), _crc(seed, payload)) + payload


Range = Callable[[int, int], bool]
"""A condition on the bytes from the first offset up to the second."""


def never(start: int, end: int) -> bool:
    """No bytes meet the condition."""
    return False


def scan(file: BinaryIO, segment_id: str, is_committed: Range = never) -> Iterator[Record | Batch | Damage]:
    """Yield every record and batch frame of a segment, and every damaged range between them, in order. Raises OSError.

    A batch at the end whose records are damaged counts as never acknowledged, and is part of the tail, unless
    `is_committed` says of its bytes that it was.

    Starts at the file's position, which must be the end of the header. Holds at most one record and one read in memory.
    """
    seed = crc_seed(segment_id)
    end = file.tell()  # of what was yielded
    for found in _find(file, seed):
        if found.start > end:
            yield Damage(end, found.start, tail=False)
        end = found.start
        if isinstance(found, Batch) and not _is_acknowledged(file, found, seed, is_committed):
            break
        yield found
        end = found.end
    if end < file.tell():
        yield Damage(end, file.tell(), tail=True)


def _is_acknowledged(file: BinaryIO, batch: Batch, seed: int, is_committed: Range) -> bool:
    """Whether the batch is complete or was committed at least. If not, this leaves the file at its end."""
    read_to = file.tell()
    file.seek(batch.end)
    if (
        _is_whole(file, batch, seed)
        or is_committed(batch.start, batch.records_end)
        or any(True for _ in _find(file, seed))  # whatever follows was written after its commit
    ):
        file.seek(read_to)
        return True
    return False


def _is_whole(file: BinaryIO, batch: Batch, seed: int) -> bool:
    """Whether the batch's records are as they were written. Reads up to their end."""
    left, crc = batch.records_end - batch.end, seed
    while left and (data := file.read(min(left, _READ_BYTES))):
        crc = zlib.crc32(data, crc)
        left -= len(data)
    return not left and crc == batch.records_crc


def _find(file: BinaryIO, seed: int) -> Iterator[Record | Batch]:
    """Yield every valid record and batch frame, from the file's position to its end. Skips what lies between."""
    window, at = b"", 0  # `at` is the offset in the window
    base = file.tell()  # the offset of the window in the file
    ended = False
    while True:
        found, missing = _decode(window, at, base, seed)
        if missing and not ended:
            more = file.read(max(missing, _READ_BYTES))
            ended = not more
            window, at, base = window[at:] + more, 0, base + at
            continue
        if found is not None:
            yield found
            at = found.end - base
            continue
        if at == len(window):  # the end of the file, or bytes would be missing
            break
        mark = _ANY_MARK.search(window, at + 1)
        # The window may end with the first bytes of a mark.
        searched = len(window) if ended else max(at + 1, len(window) - _MARK_BYTES + 1)
        at = searched if mark is None else mark.start()


def _decode(window: bytes, at: int, base: int, seed: int) -> tuple[Record | Batch | None, int]:
    """Decode what starts at `at`. (None, n): n more bytes are needed to decide; (None, 0): nothing valid does."""
    have = len(window) - at
    if have < _FRAME.size:
        return None, _FRAME.size - have
    mark, length, crc = _FRAME.unpack_from(window, at)
    if mark == _MARK:
        fits = _FIXED.size <= length <= _MAX_PAYLOAD
    else:
        fits = mark == _BATCH_MARK and _BATCH_FIXED.size <= length <= _MAX_BATCH_PAYLOAD
    if not fits:
        return None, 0
    end = _FRAME.size + length
    if have < end:
        return None, end - have
    payload = window[at + _FRAME.size : at + end]
    if _crc(seed, payload) != crc:
        return None, 0
    start, end = base + at, base + at + end
    return _to_record(start, end, payload) if mark == _MARK else _to_batch(start, end, payload), 0


def _to_record(start: int, end: int, payload: bytes) -> Record:
    received_us, site_bytes, ip_bytes, agent_bytes = _FIXED.unpack_from(payload)
    site_end = _FIXED.size + site_bytes
    ip_end = site_end + max(0, ip_bytes - 1)
    agent_end = ip_end + max(0, agent_bytes - 1)
    return Record(
        start,
        end,
        payload[_FIXED.size : site_end].decode(),
        received_us,
        payload[site_end:ip_end].decode() if ip_bytes else None,
        payload[ip_end:agent_end].decode() if agent_bytes else None,
        payload[agent_end:],
    )


def _to_batch(start: int, end: int, payload: bytes) -> Batch:
    records_bytes, records_crc, events, key_bytes = _BATCH_FIXED.unpack_from(payload)
    key_end = _BATCH_FIXED.size + key_bytes
    key, answer = payload[_BATCH_FIXED.size : key_end], payload[key_end:]
    return Batch(start, end, end + records_bytes, records_crc, events, key, answer)


def _crc(seed: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(len(payload).to_bytes(_CRC.size, "little"), seed))
