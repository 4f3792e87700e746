"""The collector without one of its safeguards, to check that the tests detect its absence.

    python tests/crash/victim.py SAFEGUARD serve --config FILE      SAFEGUARD: a name of WITHOUT, or `none`

Each safeguard is removed by replacing a function before the collector starts, so the product has no such switches.
"""

import os
import sys
import zlib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from collector.build import CODE
from collector.cli.main import main

answers: Any = import_module("collector.journal.answers")
segment: Any = import_module("collector.journal.segment")
writer: Any = import_module("collector.parts.writer")
local: Any = import_module("collector.publish.local")


def nothing(*arguments: object) -> None:
    """Replaces a sync."""


def commit_fsync() -> None:
    """Send responses before their commit is on disk. (Segments are not synced when they are sealed either.)"""
    segment.sync_data = nothing


def part_fsync() -> None:
    """Publish parts whose bytes are not on disk."""
    writer.fsync_file = nothing


def part_folder_fsync() -> None:
    """Release segments although the names of their parts, and of the folders above, are not on disk."""
    local.fsync_folder = writer.fsync_folder = nothing


def journal_folder_fsync() -> None:
    """Write to segments whose names, and whose folders' names, are not on disk."""
    segment.sync = nothing
    local.Folders._make = lambda self, folder: folder.mkdir(parents=True, exist_ok=True)


def crc() -> None:
    """Accept anything with a marker and a length as a record."""
    zlib.crc32 = lambda data, value=0: 0


def publish_if_absent() -> None:
    """Overwrite a part that already exists instead of keeping it."""

    def publish(self: Any, final: Path, segment_id: str, table: Any, row_groups: list[int], encoding: Any) -> Any:
        staged = self.staging / f"{segment_id}.parquet"
        self.folders.make(final.parent)
        self._write(staged, segment_id, table, row_groups, encoding)
        local.fsync_file(staged)
        staged.replace(final)
        local.fsync_folder(final.parent)
        return writer.Part(final, table.num_rows, final.stat().st_size)

    writer.PartWriter._publish = publish


def cut() -> None:
    """Leave the remains of a short or failed write in the segment."""
    segment.SegmentFile._cut = nothing


def frame() -> None:
    """Write a batch as single records."""
    segment.encode_frame = lambda batch, seed: b""


def claim() -> None:
    """Process a batch whose key another process may have."""

    def claimed(self: Any, key: bytes) -> bytes | None:
        with self._turn, self._transaction() as db:
            answer: bytes | None = self._answer(db, key)
            return answer

    answers.AnswerStore.claim = claimed


def remember() -> None:
    """Delete a segment although the answers to its batches are only there."""
    answers.AnswerStore.remember = nothing


def resolve() -> None:
    """Keep the claims of dead processes for ever."""
    answers.AnswerStore.resolve = nothing


WITHOUT: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        commit_fsync,
        part_fsync,
        part_folder_fsync,
        journal_folder_fsync,
        crc,
        publish_if_absent,
        cut,
        frame,
        claim,
        remember,
        resolve,
    )
}

if __name__ == "__main__":
    _, name, *arguments = sys.argv
    if os.environ.get("COMPILED") == "1" and CODE != "compiled":
        sys.exit("COMPILED=1, but the hot modules are not compiled")
    if name != "none":
        WITHOUT[name]()
    sys.exit(main(arguments))
