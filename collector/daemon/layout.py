"""The layout check: `serve` and `check-config` refuse a `partition_by` that differs from the layout on disk."""

import json
import os
from pathlib import Path

from collector.config import Storage
from collector.config_file import ConfigError
from collector.environment import ENV_PREFIX
from collector.journal.layout import held, other
from collector.journal.record import JOURNAL
from collector.parts.naming import EVENTS

_VARIABLE = f"{ENV_PREFIX}STORAGE__PARTITION_BY"


def unreadable(data_dir: Path) -> list[Path]:
    """The first of the folders that show the layout that this user may not list, as a list of at most one."""
    folders = (data_dir, data_dir / EVENTS, data_dir / JOURNAL)
    return [folder for folder in folders if not _may_list(folder)][:1]


def _may_list(folder: Path) -> bool:
    try:
        os.scandir(folder).close()
    except PermissionError:
        return False
    except OSError:  # missing or not a folder, so it holds no parts
        return True
    return True


def check_layout(config_file: Path, storage: Storage) -> None:
    """Raise ConfigError if data_dir has parts or segments of the other layout. A missing data_dir has neither."""
    now, before = storage.partition_by, other(storage.partition_by)
    found = held(storage.data_dir, before)
    if not found.parts and not found.segments:
        return
    has = " and ".join([f"parts in {EVENTS}/"] * found.parts + [f"segments in {JOURNAL}/"] * found.segments)
    stop = "stop the collector" + ", run `collector recover` with the old setting," * found.segments
    if found.parts and held(storage.data_dir, now).parts:
        remedy = f"{stop} and move the parts of one layout aside: {EVENTS}/date=* or {EVENTS}/site=*"
    else:
        remedy = f"set it back to {json.dumps(before)}, or {stop} and move {EVENTS}/ aside"
    where = next((name for name in os.environ if name.upper() == _VARIABLE), config_file)
    found_on_disk = f"{storage.data_dir} has {has} laid out by {json.dumps(before)}"
    what = f"is {json.dumps(now)}, but {found_on_disk}; readers need a single layout"
    raise ConfigError([f"{where}: storage.partition_by: {what}; {remedy}"])
