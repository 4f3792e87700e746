"""The data_dir of a command that works on one and must not make one."""

from pathlib import Path

from collector.daemon.resources import StartError


def existing(data_dir: Path) -> Path:
    """The same path, if a folder is there. Raises StartError."""
    try:
        is_folder = data_dir.is_dir()
    except OSError as exc:  # a name that is too long, a folder above it that may not be looked into
        raise StartError(f"data_dir {data_dir}: {exc.strerror}") from None
    if not is_folder:
        raise StartError(f"data_dir {data_dir}: is not a folder")
    return data_dir
