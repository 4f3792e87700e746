"""Expiry: dropping whole days of parts, so that the disk does not fill in the first place.

A day's folder leaves the dataset by one rename, into `staging/expired/`, and is deleted there: a reader finds the day
whole or not at all, one that has its parts open reads on (one that has listed and not yet opened them gets an error,
as from any file that is deleted, and must ask again), and a crash between the two leaves nothing but what the next
expiry, or the next start, sweeps. It may run beside a collector that serves, and needs no room on a disk that is full:
`staging/expired/` is made at the first start, and stays.
"""

import logging
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

from collector.parts.naming import EVENTS, EXPIRED, REJECTED, STAGING
from collector.publish.local import fsync_folder, make_folder

log = logging.getLogger(__name__)

_DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)", re.ASCII)


def expire(data_dir: Path, today: date, days: int, shown: Callable[[list[Path]], Iterator[Path]] = iter) -> int:
    """Drop the days that are more than `days` before today (UTC), and return how many parts they had.

    `shown` may show the progress through the folders. A folder that cannot be dropped keeps back no other. Raises the
    first OSError after all were tried.
    """
    trash = data_dir / STAGING / EXPIRED
    sweep(trash)
    before = today - timedelta(days)
    dropped, failures = 0, []
    for folder in shown(sorted(_days_before(data_dir, before))):
        try:
            dropped += _drop(folder, trash)
        except OSError as exc:
            if folder.exists():  # or someone else was faster
                failures.append(exc)
    if dropped:
        log.info("dropped %d parts of the days before %s", dropped, before)
    if failures:
        raise failures[0]
    return dropped


def sweep(trash: Path) -> None:
    """Delete what is in the folder, if it is there. The folder stays: a full disk might not give it back."""
    for left in trash.glob("*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _days_before(data_dir: Path, before: date) -> Iterator[Path]:
    for dataset in (EVENTS, REJECTED):
        for pattern in ("date=*", "site=*/date=*"):
            for folder in (data_dir / dataset).glob(pattern):
                day = _DAY.fullmatch(folder.name)
                with suppress(ValueError):  # no day of any calendar: not ours
                    if day and folder.is_dir() and date.fromisoformat(day[1]) < before:
                        yield folder


def _drop(folder: Path, trash: Path) -> int:
    parts = sum(1 for _ in folder.glob("*.parquet"))
    make_folder(trash)
    aside = trash / secrets.token_hex(8)
    folder.rename(aside)
    fsync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)  # what cannot be deleted now is swept by the next expiry
    return parts
