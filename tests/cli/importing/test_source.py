"""Files to import: plain and gzip, from a disk and from a pipe, whole and broken."""

import gzip
import os
import threading
import tracemalloc
import zlib
from pathlib import Path

import pytest

from collector.cli.importing.source import Source, Unreadable
from collector.daemon.resources import StartError

LARGEST = 1_000
PLAIN = b'{"a": 1}\r\n\n{"b": 2}\n{"c": 3}'
LINES = [(1, b'{"a": 1}'), (3, b'{"b": 2}'), (4, b'{"c": 3}')]
BOM = b"\xef\xbb\xbf"


def read(path: Path) -> tuple[list[tuple[int, bytes]], str]:
    """The lines, and why there are no more; empty if that is the end of the file."""
    found: list[tuple[int, bytes]] = []
    with Source(str(path)) as source:
        try:
            found.extend((number, body) for number, body in source.lines(LARGEST))
        except Unreadable as exc:
            return found, str(exc).removeprefix(f"{path}: ")
    return found, ""


FILES: dict[str, tuple[bytes, str]] = {
    "plain": (PLAIN, ""),
    "byte order mark": (BOM + PLAIN, ""),
    "gzip": (gzip.compress(PLAIN), ""),
    "gzip of a byte order mark": (gzip.compress(BOM + PLAIN), ""),
    "gzip files that were joined": (gzip.compress(PLAIN[:10]) + gzip.compress(PLAIN[10:]), ""),
    "gzip with zeros behind it": (gzip.compress(PLAIN) + bytes(100), ""),
    "gzip with something behind it": (
        gzip.compress(PLAIN + b"\n") + b"junk",
        "is broken gzip: Not a gzipped file (b'ju')",
    ),
    "gzip without its end": (
        gzip.compress(PLAIN + b"\n")[:-8],
        "is broken gzip: Compressed file ended before the end-of-stream marker was reached",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_lines_are_those_of_the_text(name: str, tmp_path: Path) -> None:
    content, why = FILES[name]
    (tmp_path / "events").write_bytes(content)
    assert (LINES, why) == read(tmp_path / "events")


def test_gzip_whose_sum_differs_is_broken(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(PLAIN + b"\n"))
    packed[-8] ^= 1
    (tmp_path / "events").write_bytes(packed)
    assert LINES == (found := read(tmp_path / "events"))[0]
    assert found[1].startswith("is broken gzip: CRC check failed")


def test_gzip_of_nonsense_is_broken(tmp_path: Path) -> None:
    packer = zlib.compressobj(wbits=-15)
    head = gzip.compress(b"")[:10]
    (tmp_path / "events").write_bytes(head + packer.compress(b"") + b"\xff" * 100)
    found, why = read(tmp_path / "events")
    assert ([], True) == (found, why.startswith("is broken gzip: Error -3 while decompressing data")), why


@pytest.mark.parametrize("content", [PLAIN, gzip.compress(PLAIN)], ids=["plain", "gzip"])
def test_pipe_may_give_one_byte_at_a_time(content: bytes, tmp_path: Path) -> None:
    """Its size is not known."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            for index in range(len(content)):
                pipe.write(content[index : index + 1])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with Source(str(path)) as source:
            assert source.size_bytes is None
            assert LINES == [tuple(line) for line in source.lines(LARGEST)]
            assert len(content) == source.read_bytes
    finally:
        writer.join(10)


def test_progress_counts_the_bytes_on_disk(tmp_path: Path) -> None:
    packed = gzip.compress((PLAIN + b"\n") * 1_000)
    (tmp_path / "events").write_bytes(packed)
    with Source(str(tmp_path / "events")) as source:
        assert (len(packed), 0) == (source.size_bytes, source.read_bytes)
        assert 3_000 == len([line for line in source.lines(LARGEST) if line.body])
        assert len(packed) == source.read_bytes


@pytest.mark.parametrize("is_gzip", [False, True])
def test_line_larger_than_memory_is_not_kept(is_gzip: bool, tmp_path: Path) -> None:
    """A line of 100 MB takes less than 3 MB. It is yielded before its rest is read."""
    path = tmp_path / "events"
    if is_gzip:
        with gzip.open(path, "wb", 1) as packed:
            for _ in range(100):
                packed.write(b"x" * 1_000_000)
    else:
        with path.open("wb") as sparse:
            sparse.truncate(100_000_000)
    tracemalloc.start()
    try:
        with Source(str(path)) as source:
            lines = source.lines(LARGEST)
            assert LARGEST < len(next(lines).body) < 2 * LARGEST
            assert source.read_bytes < 1_000_000
            assert [] == list(lines)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3_000_000


def test_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read: Is a directory"):
        Source(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_read_that_fails_is_explained() -> None:
    """Nothing is mapped at the address 0, so this file cannot be read there."""
    assert ([], "cannot be read: Input/output error") == read(Path("/proc/self/mem"))
