"""The progress of an import, shown on a terminal: bytes of the file, events, and events per second."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn


class Advance(Protocol):
    """Shows how far the import is."""

    def __call__(self, read_bytes: int, events: int) -> None: ...


@contextmanager
def shown(size_bytes: int | None) -> Iterator[Advance]:
    """A progress bar on standard error, if that is a terminal. `size_bytes` is the size of the file, if known."""
    terminal = Console(stderr=True)
    bar = Progress(
        TextColumn("importing"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[events]:,} events, {task.fields[rate]:,.0f}/s"),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
        # Redirected output should not end up on the terminal, which is where `rich` would print it.
        redirect_stdout=sys.stdout.isatty(),
    )
    began_s = time.monotonic()
    with bar:
        task = bar.add_task("", total=size_bytes, events=0, rate=0.0)

        def advance(read_bytes: int, events: int) -> None:
            rate = events / max(time.monotonic() - began_s, 0.001)
            bar.update(task, completed=read_bytes, events=events, rate=rate)

        yield advance
