"""Compile the hot modules with mypyc. setup.cfg has everything else.

The modules from the socket to the record and the buffer run for every event. mypyc turns them into one C extension,
from the same typed source. Without a C compiler or Python's headers the source runs as it is. So it does in an editable
install, which must follow its source. `collector --version` says which one runs.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

COMPILED = {
    "": ("addresses", "clock", "events", "sites"),
    "edge/": (
        "bodies",
        "client_ip",
        "client_protocol",
        "connection",
        "date",
        "decide",
        "fast_path",
        "in_flight",
        "rate_limit",
        "request",
        "responses",
        "turn_budget",
    ),
    "ingest/": ("enrich", "pipeline", "reader", "schema"),
    "journal/": ("buffer", "journal", "record"),
}

# The commands that need the extension. Others, such as egg_info, only read the metadata.
BUILDING = {"bdist_wheel", "build", "build_ext", "install"}


def can_compile() -> bool:
    """Whether a C compiler and Python's headers are at hand."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = [
        name for name, found in ((compiler, shutil.which(compiler)), (str(header), header.exists())) if not found
    ]
    if missing:
        print(f"not compiling the hot modules: {' and '.join(missing)} not found", file=sys.stderr)
    return not missing


def extensions() -> list[object]:
    if "editable_wheel" in sys.argv or not BUILDING.intersection(sys.argv) or not can_compile():
        return []
    from mypyc.build import mypycify

    paths = [f"collector/{folder}{name}.py" for folder, names in COMPILED.items() for name in names]
    # The build environment has none of the packages that the collector imports. They count as untyped.
    flags = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    return list(mypycify([*flags, *paths], opt_level="3", debug_level="0", group_name="collector"))


setup(ext_modules=extensions())
