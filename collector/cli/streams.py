"""The standard streams: always open, and never the reason that a command stops half-way.

A parent process may have closed descriptors 0, 1 or 2, or connected them to a full disk. The kernel gives a closed
descriptor to the next file that is opened, so a message to standard error could land in a segment. Python sets the
stream of a closed descriptor to None: `print` then writes nothing, and `print(file=sys.stderr)` to standard output.
"""

import io
import os
import select
import sys
from typing import IO, Any, cast

STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR = range(3)


def open_closed() -> None:
    """Connect each closed standard descriptor to /dev/null. Call it before anything else is opened."""
    for descriptor in (STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = _nothing(descriptor)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
            os.set_inheritable(descriptor, True)  # or workers would find it closed again


def set_up_streams() -> None:
    """Replace `sys.stdin`, `sys.stdout` and `sys.stderr`, except streams that the caller has replaced already."""
    open_closed()
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(STANDARD_INPUT, closefd=False)))
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(Output(drops=sys.stdout is None), sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(Errors(), sys.stderr)


def unwritten() -> OSError | None:
    """The first error in writing standard output, after a last flush; None if everything was written."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        return exc
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, Output) else None


class Output(io.FileIO):
    """Standard output. After a failed write it drops everything and keeps the error in `failure`.

    So a command that changes files finishes its work and reports the error at its end. Only BrokenPipeError is raised
    at once: the reader wants no more output.
    """

    def __init__(self, *, drops: bool) -> None:
        super().__init__(STANDARD_OUTPUT, "w", closefd=False)
        self.failure: OSError | None = None
        self._drops = drops

    def write(self, data: Any, /) -> int:
        if not self._drops:
            try:
                while (written := cast("int | None", super().write(data))) is None:  # non-blocking and full
                    select.select((), (STANDARD_OUTPUT,), ())
                return written
            except BrokenPipeError as exc:
                self._drops, self.failure = True, exc
                raise
            except OSError as exc:
                self._drops, self.failure = True, exc
        return len(data)


class Errors(io.FileIO):
    """Standard error, and so the log. A failed write is dropped: there is nowhere to report it, and a full log disk
    must not stop the collector. The next write is tried again, because the disk may have room by then.
    """

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
    """A text stream like the interpreter's own, except that characters its encoding lacks are escaped."""
    given = given if isinstance(given, io.TextIOWrapper) else None
    errors = given.errors if given else None
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=given.encoding if given else "utf-8",
        errors="backslashreplace" if errors in (None, "strict") else errors,
        line_buffering=raw.fileno() == STANDARD_ERROR
        or (given is not None and (given.line_buffering or given.write_through)),
    )
