"""A progress bar for long tasks, shown only on a terminal."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def with_progress(items: Sequence[T], doing: str) -> Iterator[T]:
    """Yield each item, and show a progress bar on standard error."""
    terminal = Console(stderr=True)
    yield from track(items, doing, console=terminal, disable=not terminal.is_terminal, transient=True)
