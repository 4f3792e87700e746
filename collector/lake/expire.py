"""Expiry: dropping whole days of parts, so that the disk does not fill in the first place.

A day's folder leaves the dataset by one rename, into `staging/expired/`, and is deleted there: a reader finds the day
whole or not at all, one that has its parts open reads on (one that has listed and not yet opened them gets an error,
as from any file that is deleted, and must ask again), and a crash between the two leaves nothing but what the next
expiry, or the next start, sweeps. It may run beside a collector that serves, and needs no room on a disk that is full:
`staging/expired/` is made at the first start, and stays.
"""

import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

from collector.parts.naming import EVENTS, EXPIRED, REJECTED, STAGING
from collector.publish.local import Folders, fsync_folder, sweep

log = logging.getLogger(__name__)

_DAY = re.compile(r"date=(\d{4}-\d\d-\d\d)", re.ASCII)


def expire(
    data_dir: Path,
    today: date,
    days: int,
    shown: Callable[[list[Path]], Iterator[Path]] = iter,
    count: Callable[[int], object] = lambda parts: None,
) -> int:
    """Drop the days that are more than `days` before today (UTC), and return how many parts they had.

    `today` is believed, also of a clock that has jumped. The newest day in the dataset is no witness against it: a
    minute after the jump that is `today` too. Nor is a gap before it: a month without events leaves one too, and who
    must keep nothing longer than `days` needs what lies before it dropped all the same.

    `shown` may show the progress through the folders. A folder that cannot be dropped, or looked into, keeps back no
    other. `count` is told of the parts of each that is dropped. Raises the first OSError after all were tried.
    """
    trash = data_dir / STAGING / EXPIRED
    sweep(trash)
    before = today - timedelta(days)
    folders = Folders(data_dir)
    dropped = 0

    def counted(parts: int) -> None:
        nonlocal dropped
        dropped += parts
        count(parts)

    failures: list[OSError] = []
    for folder in shown(sorted(_days_before(data_dir, before, failures))):
        try:
            _drop(folder, trash, folders, counted)
        except OSError as exc:
            if folder.exists():  # or someone else was faster
                failures.append(exc)
    if dropped:
        log.info("dropped %d parts of the days before %s", dropped, before)
    if failures:
        raise failures[0]
    return dropped


def _days_before(data_dir: Path, before: date, failures: list[OSError]) -> Iterator[Path]:
    for dataset in (EVENTS, REJECTED):
        for folder in _folders(data_dir / dataset, failures):
            days = _folders(folder, failures) if folder.name.startswith("site=") else [folder]
            yield from (day for day in days if _is_before(day.name, before))


def _is_before(name: str, before: date) -> bool:
    day = _DAY.fullmatch(name)
    try:
        return day is not None and date.fromisoformat(day[1]) < before
    except ValueError:  # no day of any calendar: not ours
        return False


def _folders(folder: Path, failures: list[OSError]) -> list[Path]:
    """The folders in it. (`glob` passes over a folder that it may not read: its days would stay for ever.)"""
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:  # nothing was ever rejected, or someone has removed an empty site
        return []
    except OSError as exc:
        failures.append(exc)
        return []


def _drop(folder: Path, trash: Path, folders: Folders, count: Callable[[int], None]) -> None:
    parts = sum(1 for _ in folder.glob("*.parquet"))
    folders.make_if_gone(trash)
    aside = trash / secrets.token_hex(8)
    folder.rename(aside)
    count(parts)  # readers have lost it, whatever fails from here on
    fsync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)  # what cannot be deleted now is swept by the next expiry
