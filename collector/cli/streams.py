"""The standard streams: always open, and no reason to end in the middle of something.

Whoever starts a program may have closed descriptors 0, 1 or 2, or connected them to a disk that is full. A closed one
would be given to the next file that is opened, and a stray word to standard error would land in a segment. Python has
None in the place of its stream, whose `print` goes elsewhere or fails.
"""

import io
import os
import select
import sys
from typing import IO, Any, cast

STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR = range(3)


def open_closed() -> None:
    """Connect each standard descriptor that is closed to nothing. Before anything else is opened."""
    for descriptor in (STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = _nothing(descriptor)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
            os.set_inheritable(descriptor, True)  # for workers, who would find it closed again


def set_up_streams() -> None:
    """Make `sys.stdin`, `sys.stdout` and `sys.stderr` what this module promises; streams of a caller stay."""
    open_closed()
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(STANDARD_INPUT, closefd=False)))
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(Output(drops=sys.stdout is None), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(Errors(), sys.stderr)


def unwritten() -> OSError | None:
    """Why not all of the output was written, now that there is no more; None: it was."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        return exc
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, Output) else None


class Output(io.FileIO):
    """Standard output. What cannot be written is dropped, and the first reason kept: a command that has changed
    something goes on, and tells at its end. A reader who has left is told at once, as an exception: nobody wants more.
    """

    def __init__(self, *, drops: bool) -> None:
        super().__init__(STANDARD_OUTPUT, "w", closefd=False)
        self.failure: OSError | None = None
        self._drops = drops

    def write(self, data: Any, /) -> int:
        if not self._drops:
            try:
                while (written := cast("int | None", super().write(data))) is None:  # whose descriptor does not block
                    select.select((), (STANDARD_OUTPUT,), ())
                return written
            except BrokenPipeError as exc:
                self._drops, self.failure = True, exc
                raise
            except OSError as exc:
                self._drops, self.failure = True, exc
        return len(data)


class Errors(io.FileIO):
    """Standard error, and so the log. What it does not take is dropped: there is nowhere to tell, and what a log's disk
    lacks is no reason to stop. It is tried anew each time, as the disk may have room again."""

    def __init__(self) -> None:
        super().__init__(STANDARD_ERROR, "w", closefd=False)

    def write(self, data: Any, /) -> int:
        try:
            return cast("int | None", super().write(data)) or len(data)
        except OSError:
            return len(data)


def _nothing(descriptor: int) -> int:
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:  # a root folder without /dev
        reader, writer = os.pipe()
        wanted, other = (reader, writer) if descriptor == STANDARD_INPUT else (writer, reader)
        os.close(other)
        return wanted


def _text(raw: io.FileIO, given: IO[str] | None) -> io.TextIOWrapper:
    """Text as the interpreter would write it there; but what its encoding lacks is escaped, and no error."""
    given = given if isinstance(given, io.TextIOWrapper) else None
    errors = given.errors if given else None
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=given.encoding if given else "utf-8",
        errors="backslashreplace" if errors in (None, "strict") else errors,
        line_buffering=raw.fileno() == STANDARD_ERROR
        or (given is not None and (given.line_buffering or given.write_through)),
    )
