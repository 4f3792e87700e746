"""Logging: one line per happening on stderr, fit for the systemd journal; a flood becomes a few lines and a count."""

import logging
import sys

MAX_ALIKE = 20
PERIOD_S = 10.0
MAX_KINDS = 1_000


class FloodFilter(logging.Filter):
    """Lets MAX_ALIKE records of a kind pass in a period, and counts the others on the first of a later period.

    Records are of a kind if one line of code wrote them, or one line of text in what asyncio and libraries write.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}  # the period's start, and how many came in it

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.name, str(record.msg).partition("\n")[0])
        started, seen = self._kinds.get(kind, (record.created, 0))
        if record.created - started >= PERIOD_S:
            if seen > MAX_ALIKE:
                record.msg = f"{record.getMessage()} (and {seen - MAX_ALIKE} like it before)"
                record.args = ()
            started, seen = record.created, 0
        if len(self._kinds) >= MAX_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (started, seen + 1)
        return seen < MAX_ALIKE


def set_up_logging(level: int = logging.INFO, who: str = "") -> None:
    """Send everything from `level` up to stderr; `who` tells processes that share it from one another."""
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s {who}%(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        force=True,
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(FloodFilter())
