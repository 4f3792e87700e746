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
     12  site id, client_ip, user_agent, and the body exactly as received

Each CRC includes the segment's id. After a power cut, a file system can return blocks of an older segment in place of
this one's (ext4 with `data=writeback`); their CRCs do not match. The id is also in the file's name, so damage to the
header loses no record.

A sample record of segment 0123456789abcdef: site `a`, body `{}`, no address, and user agent `u`:

    ff524543 10000000 39ee6148 0040b38be6520600 01 00 0200 61 75 7b7d
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
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
_MARK: Final = b"\xffREC"
_BY_SITE, _BY_DAY = 1, 2

# The largest body that the configuration allows (16 MiB), plus room for the other fields. A damaged length above this
# limit is detected at once. Below the limit, the reader reads that many bytes before it searches for the next record.
_MAX_PAYLOAD = 17 << 20
_READ_BYTES = 1 << 20


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


def scan(file: BinaryIO, segment_id: str) -> Iterator[Record | Damage]:
    """Yield every record of a segment, and every damaged range between records, in order. Raises OSError.

    Starts at the file's position, which must be the end of the header. Holds at most one record and one read in memory.
    """
    seed = crc_seed(segment_id)
    window, at = b"", 0  # `at` is the offset in the window
    base = file.tell()  # the offset of the window in the file
    ended = False
    bad_from: int | None = None
    while True:
        record, missing = _decode(window, at, base, seed)
        if missing and not ended:
            more = file.read(max(missing, _READ_BYTES))
            ended = not more
            window, at, base = window[at:] + more, 0, base + at
            continue
        if record is not None:
            if bad_from is not None:
                yield Damage(bad_from, base + at, tail=False)
                bad_from = None
            yield record
            at = record.end - base
            continue
        if at == len(window):  # the end of the file, or bytes would be missing
            break
        bad_from = base + at if bad_from is None else bad_from
        found = window.find(_MARK, at + 1)
        if found < 0:
            # The window may end with the first bytes of a mark.
            found = len(window) if ended else max(at + 1, len(window) - len(_MARK) + 1)
        at = found
    if bad_from is not None:
        yield Damage(bad_from, base + at, tail=True)


def _decode(window: bytes, at: int, base: int, seed: int) -> tuple[Record | None, int]:
    """Decode the record at `at`. (None, n): n more bytes are needed to decide; (None, 0): no record starts there."""
    have = len(window) - at
    if have < _FRAME.size:
        return None, _FRAME.size - have
    mark, length, crc = _FRAME.unpack_from(window, at)
    if mark != _MARK or not _FIXED.size <= length <= _MAX_PAYLOAD:
        return None, 0
    end = _FRAME.size + length
    if have < end:
        return None, end - have
    payload = window[at + _FRAME.size : at + end]
    if _crc(seed, payload) != crc:
        return None, 0
    received_us, site_bytes, ip_bytes, agent_bytes = _FIXED.unpack_from(payload)
    site_end = _FIXED.size + site_bytes
    ip_end = site_end + max(0, ip_bytes - 1)
    agent_end = ip_end + max(0, agent_bytes - 1)
    record = Record(
        base + at,
        base + at + end,
        payload[_FIXED.size : site_end].decode(),
        received_us,
        payload[site_end:ip_end].decode() if ip_bytes else None,
        payload[ip_end:agent_end].decode() if agent_bytes else None,
        payload[agent_end:],
    )
    return record, 0


def _crc(seed: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(len(payload).to_bytes(_CRC.size, "little"), seed))
