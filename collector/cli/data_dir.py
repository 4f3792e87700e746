"""The data_dir of commands that need an existing one and must not create it."""

import os
from pathlib import Path

from collector.daemon.resources import StartError


def existing(data_dir: Path) -> Path:
    """Return the path if it is a folder. Raises StartError."""
    try:
        is_folder = data_dir.is_dir()
    except OSError as exc:  # the name is too long, or a parent folder cannot be read
        raise StartError(f"data_dir {data_dir}: {exc.strerror}") from None
    if not is_folder:
        is_there = os.path.lexists(data_dir)  # such as a plain file, or a link that leads nowhere
        raise StartError(f"data_dir {data_dir}: {'is not a folder' if is_there else 'does not exist'}")
    return data_dir
