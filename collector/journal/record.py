"""Records: an accepted event as bytes, and how a segment's bytes are read back.

A segment file is a header and records, nothing between them. All numbers are little-endian.

    header, 36 bytes
      0  magic      8  "collseg" and a line feed
      8  version    4  1
     12  segment    8  the segment's id
     20  contract   8  the first bytes of the SHA-256 of the contract that its events were checked against
     28  layout     1  1: parts by site and day, 2: parts by day alone; then three zeros
     32  crc        4  CRC-32 of the 32 bytes before

    record
      0  mark       4  FF "REC": no UTF-8 text holds FF, so behind damage the next record is found again
      4  length     4  of the payload
      8  crc        4  CRC-32 of segment id, length and payload
     12  payload

    payload
      0  received   8  microseconds since the epoch, signed
      8  site       1  length of the site id
      9  client_ip  1  length of the kept address and one more; 0: none is kept
     10  user_agent 2  length of the user agent and one more; 0: there was none
     12  site id, client_ip, user_agent, and the body as it came

The id in each CRC makes the bytes of an older segment that a file system gives back in this one's place (ext4 with
`data=writeback`, after a power cut) no records. It is in the file's name too, so a damaged header costs no record.
A sample, of segment 0123456789abcdef: a record of site `a` with the body `{}`, no address and user agent `u`:

    ff524543 10000000 39ee6148 0040b38be6520600 01 00 0200 61 75 7b7d
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from collector.events import CONTRACT_HASH, Event

JOURNAL = "journal"  # the folder of all segments
VERSION = 1
MAGIC = b"collseg\n"
HEADER_BYTES = 36

_HEADER = struct.Struct("<8sI8s8sB3x")
_CRC = struct.Struct("<I")
_FRAME = struct.Struct("<4sII")
_FIXED = struct.Struct("<qBBH")
_MARK = b"\xffREC"
_BY_SITE, _BY_DAY = 1, 2

# The largest body that the configuration takes (16 MiB), and room for the rest. A damaged length beyond it is seen at
# once; one below it costs reading so much before the next record is looked for.
_MAX_PAYLOAD = 17 << 20
_READ_BYTES = 1 << 20


class NewerFormat(Exception):
    """The segment was written by a later version of the collector."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself."""

    segment_id: str
    by_site: bool
    contract: str = CONTRACT_HASH


class Record(NamedTuple):
    """One accepted event as it was acknowledged; `start` and `end` are where it lies in its file."""

    start: int
    end: int
    site_id: str
    received_us: int
    client_ip: str | None
    user_agent: str | None
    body: bytes


class Damage(NamedTuple):
    """Bytes that are no records; a `tail` reaches to the end of the file."""

    start: int
    end: int
    tail: bool


def encode_header(header: Header) -> bytes:
    """The first HEADER_BYTES of a segment."""
    layout = _BY_SITE if header.by_site else _BY_DAY
    packed = _HEADER.pack(MAGIC, VERSION, bytes.fromhex(header.segment_id), bytes.fromhex(header.contract), layout)
    return packed + _CRC.pack(zlib.crc32(packed))


def decode_header(data: bytes) -> Header | None:
    """The header that `data` begins with; None where it is damaged or cut. Raises NewerFormat."""
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
    """What the CRCs of the segment's records start from."""
    return zlib.crc32(bytes.fromhex(segment_id))


def encode(event: Event, seed: int) -> bytes:
    """The event as a record."""
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
    return _FRAME.pack(_MARK, len(payload), _crc(seed, payload)) + payload


def scan(file: BinaryIO, segment_id: str) -> Iterator[Record | Damage]:
    """Every record of a segment, in order, and every stretch of bytes between them that is none. Raises OSError.

    Reads from the file's position, the end of the header. Memory stays within a record and a read.
    """
    seed = crc_seed(segment_id)
    window, at = b"", 0  # `at` is the place in the window
    base = file.tell()  # of the window in the file
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
        if at == len(window):  # and nothing follows, or else bytes were missing
            break
        bad_from = base + at if bad_from is None else bad_from
        found = window.find(_MARK, at + 1)
        if found < 0:
            # What is left may end in the first bytes of a mark.
            found = len(window) if ended else max(at + 1, len(window) - len(_MARK) + 1)
        at = found
    if bad_from is not None:
        yield Damage(bad_from, base + at, tail=True)


def _decode(window: bytes, at: int, base: int, seed: int) -> tuple[Record | None, int]:
    """The record at this place, and how many bytes are missing to tell; (None, 0): there is none."""
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
    return zlib.crc32(payload, zlib.crc32(_CRC.pack(len(payload)), seed))
