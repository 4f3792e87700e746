"""Logging: one line per happening on stderr, fit for the systemd journal."""

import logging
import sys


def set_up_logging(level: int = logging.INFO) -> None:
    """Send everything from `level` up to stderr."""
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        force=True,
    )
