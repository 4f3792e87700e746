"""The file with the sender's key."""

import re
import stat
from os import fstat
from pathlib import Path

from collector.daemon.resources import StartError
from collector.log.setup import complain

# Longer than any key, and short enough for a header.
_LARGEST_BYTES = 1_024
_KEY = re.compile(rb"[!-~]+")


def read_key(path: Path) -> str:
    """The key in this file, which has one line. Raises StartError. Warns if everyone can read the file."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
            is_public = fstat(file.fileno()).st_mode & stat.S_IROTH
    except OSError as exc:
        raise StartError(f"{path}: cannot be read: {exc.strerror}") from None
    key = content.removesuffix(b"\n").removesuffix(b"\r")
    if len(content) > _LARGEST_BYTES or not _KEY.fullmatch(key):
        raise StartError(f"{path}: should have one line: the first that `collector key` prints")
    if is_public:
        complain(f"{path}: every user of this machine can read the key; `chmod o-r` changes that")
    return key.decode()
