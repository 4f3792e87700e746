"""Results as JSON: the measurements, the machine, and the versions of the software."""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.server import ROOT, environment
from bench.subject import Setup, command, variables
from collector.cli.doctor.machine import look_at_folder

FOLDER = Path(__file__).with_name("results")

Result = dict[str, Any]

PACKAGES = ("aiohttp", "uvloop", "pyarrow", "msgspec", "ujson", "fastjsonschema")

_ABOUT_PYTHON = """
import importlib.metadata, json, platform, sys, sysconfig
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({
    "version": platform.python_version(),
    "compiler": platform.python_compiler(),
    "profile_guided": "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
    "shared": bool(sysconfig.get_config_var("Py_ENABLE_SHARED")),
    "packages": {name: version(name) for name in sys.argv[1:]},
}))
"""


def save(path: Path, scenario: str, command_line: str, runs: list[Result], setup: Setup, folder: Path | None) -> None:
    """Write the runs of a scenario, with the machine and the versions they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if scenario == "micro":  # calls the collector's functions in Python
        setup = replace(setup, binary=None)
    about = {"scenario": scenario, "command": command_line, **machine(setup, folder), "runs": runs}
    if scenario == "versus":  # its runs say what each side is
        del about["collector"], about["python"]
    if scenario == "tracker":  # runs in a browser, and its runs say which
        del about["collector"]
        about["python"] = about["wrk"] = None
    path.write_text(json.dumps(about, indent=2) + "\n")


def machine(setup: Setup, folder: Path | None = None) -> Result:
    """Describe the machine, the collector and the software versions."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(ROOT),
        "collector": about_collector(setup),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average": round(os.getloadavg()[0], 1),
        "file_system": file_system(folder),
        # The binary has a Python and packages of its own; its version names the commit that pins them.
        "python": None if setup.binary else about_python(setup.python, *PACKAGES),
        "wrk": (output("wrk", "-v") or "").partition("[")[0].removeprefix("wrk").strip() or None,
    }


def about_collector(setup: Setup) -> Result:
    """Say what runs as the collector: the binary or Python, its own version, and the commit of its checkout."""
    # In the checkout's folder, because `python -m` prefers the current folder to PYTHONPATH.
    version = output(*command(setup, "--version"), env=variables(setup), cwd=setup.root)
    if setup.binary:
        return {"runs": "the binary", "version": version}
    return {"runs": "python -m collector", "version": version, "commit": _commit(setup.root)}


def about_python(python: str, *packages: str) -> Result | None:
    about: Result | None = json.loads(output(python, "-c", _ABOUT_PYTHON, *packages) or "null")
    return about


def _commit(root: Path) -> str | None:
    """Return a clone's commit, with `-dirty` if anything other than results has uncommitted changes."""
    if not (root / ".git").exists():
        return None
    git = ("git", "-C", str(root))
    commit = output(*git, "rev-parse", "--short", "HEAD")
    changed = output(*git, "status", "--porcelain", "--", ":!bench/results", ":!bench/README.md")
    return f"{commit}-dirty" if commit and changed else commit


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def file_system(folder: Path | None) -> str | None:
    """Return the type from /proc/mounts. `stat -f` cannot tell ext2, ext3 and ext4 apart."""
    return look_at_folder(folder or Path(os.environ.get("TMPDIR", "/tmp"))).file_system or None


def output(*command: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str | None:
    """Return a command's output; None if it is not installed or prints nothing."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, env=env or environment(), cwd=cwd)
    return (done.stdout + done.stderr).strip() or None
