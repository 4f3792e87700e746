"""Expiry: deletes entire days of parts, so that the disk does not fill up.

A single rename moves a day's folder into `staging/expired/`, where it is deleted. So readers find the day complete or
not at all. A reader that has the parts open can read on. A reader that has listed them but not yet opened them gets an
error and must list again. After a crash between the two steps, the next expiry or the next start deletes the rest.

Expiry can run while a collector serves. It works on a full disk, because `staging/expired/` is made at the first start
and stays.
"""

import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

from collector import wording
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
    """Drop all days more than `days` before `today` (UTC), and return how many parts they had.

    Trusts `today`, even if the clock has jumped. The newest day in the dataset cannot disprove it, because a minute
    after the jump that day is `today` too. Neither can a gap before it: a month without events leaves one as well, and
    anyone who must not keep data for longer than `days` needs older days dropped.

    `shown` may wrap the folders to show progress. `count` is called with the number of parts of each folder dropped.
    Tries every folder, even if another cannot be dropped or read, then raises the first OSError.
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
            if folder.exists():  # otherwise, another process dropped it first
                failures.append(exc)
    if dropped:
        log.info("dropped %s of days before %s", wording.count(dropped, "part"), before)
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
    except ValueError:  # not a calendar day, so not our folder
        return False


def _folders(folder: Path, failures: list[OSError]) -> list[Path]:
    """The folders in `folder`. (`glob` would skip an unreadable folder, and its days would stay forever.)"""
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:  # no event was ever rejected, or someone removed an empty site
        return []
    except OSError as exc:
        failures.append(exc)
        return []


def _drop(folder: Path, trash: Path, folders: Folders, count: Callable[[int], None]) -> None:
    parts = sum(1 for _ in folder.glob("*.parquet"))
    folders.make_if_gone(trash)
    aside = trash / secrets.token_hex(8)
    folder.rename(aside)
    count(parts)  # readers cannot find the day any more, even if a later step fails
    fsync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)  # the next expiry deletes what remains
