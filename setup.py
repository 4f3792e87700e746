"""Compile the hot modules with mypyc. setup.cfg has everything else.

The modules from the socket to the record and the buffer run for every event. mypyc turns them into one C extension,
from the same typed source. Without a C compiler or Python's headers the source runs as it is. So it does in an editable
install, which must follow its source. `collector --version` says which one runs.
"""

import os
import shlex
import subprocess
import sys
import sysconfig

from setuptools import Extension, setup

COMPILED = {
    "": ("addresses", "clock", "events", "recent", "site_counts", "sites"),
    "edge/": (
        "bodies",
        "client_ip",
        "client_protocol",
        "connection",
        "date",
        "decide",
        "fast_path",
        "in_flight",
        "opt_out",
        "rate_limit",
        "request",
        "responses",
        "routes",
        "turn_budget",
    ),
    "ingest/": ("enrich", "pipeline", "reader", "schema", "user_agent"),
    "journal/": ("buffer", "journal", "record", "submission"),
    "parts/": ("section",),
}

# The commands that need the extension. Others, such as egg_info, only read the metadata.
BUILDING = {"bdist_wheel", "build", "build_ext", "install"}


def can_compile() -> bool:
    """Whether a C compiler with the headers of C and of Python is at hand. If not, say so."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    command = [*compiler, "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-x", "c", "-"]
    program = "#include <stdlib.h>\n#include <Python.h>\n"
    try:
        done = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
        why = (done.stderr or f"{command[0]} exits with {done.returncode}") if done.returncode else ""
    except OSError as exc:
        why = str(exc)
    if why:
        print(f"The hot modules are not compiled, and run as they are: {why}", file=sys.stderr)
    return not why


def extensions() -> list[Extension]:
    if not BUILDING.intersection(sys.argv) or not can_compile():
        return []
    from mypyc.build import mypycify

    paths = [f"collector/{folder}{name}.py" for folder, names in COMPILED.items() for name in names]
    # The build environment has none of the packages that the collector imports. They count as untyped.
    flags = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    found: list[Extension] = mypycify([*flags, *paths], opt_level="3", debug_level="0", group_name="collector")
    for extension in found:  # a new version of a compiler may warn
        extension.extra_compile_args = [flag for flag in extension.extra_compile_args if flag != "-Werror"]
    return found


setup(ext_modules=extensions())
