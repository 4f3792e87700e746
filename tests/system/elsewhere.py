"""Runs the collector as if this were not Linux: hides what only Linux has, then imports the collector.

python tests/system/elsewhere.py serve --config FILE
"""

import builtins
import fcntl
import io
import os
import sys
import time
from importlib import import_module
from typing import Any

HIDDEN = {
    os: ("fdatasync", "memfd_create", "preadv", "sched_getaffinity", "setpriority"),
    time: ("pthread_getcpuclockid",),
}
FULL_SYNC = 51  # F_FULLFSYNC of macOS

really_open, really_fcntl = io.open, fcntl.fcntl


def without_proc(file: Any, *arguments: Any, **keywords: Any) -> Any:
    """`open` on a system without /proc."""
    if str(file).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return really_open(file, *arguments, **keywords)


def with_full_sync(descriptor: int, command: int, *arguments: Any) -> Any:
    """`fcntl` on a system with F_FULLFSYNC."""
    if command == FULL_SYNC:
        return os.fsync(descriptor)
    return really_fcntl(descriptor, command, *arguments)


if __name__ == "__main__":
    for module, names in HIDDEN.items():
        for name in names:
            delattr(module, name)
    for module, name, instead in (
        (io, "open", without_proc),
        (builtins, "open", without_proc),
        (fcntl, "fcntl", with_full_sync),
        (fcntl, "F_FULLFSYNC", FULL_SYNC),
    ):
        setattr(module, name, instead)
    # Only while our only module that checks the platform is imported. Python's own modules would look for files that do
    # not exist here.
    sys.platform = "darwin"
    import_module("collector.portable")
    sys.platform = "linux"
    sys.exit(import_module("collector.cli.main").main(sys.argv[1:]))
