"""Results as JSON: the measurements, the machine, and the versions of the software."""

import json
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.rivals import FASTIFY, RIVALS_PYTHON
from bench.server import ROOT, environment
from collector.cli.doctor.machine import look_at_folder

FOLDER = Path(__file__).with_name("results")

Result = dict[str, Any]

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


def save(path: Path, scenario: str, command: str, runs: list[Result], python: str, folder: Path | None) -> None:
    """Write the runs of a scenario, with the machine and the versions they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"scenario": scenario, "command": command, **machine(python, folder), "runs": runs}
    path.write_text(json.dumps(about, indent=2) + "\n")


def machine(python: str, folder: Path | None = None) -> Result:
    """Describe the machine and the software versions."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average": round(os.getloadavg()[0], 1),
        "file_system": file_system(folder),
        "python": _about_python(python, "aiohttp", "uvloop", "pyarrow", "ujson", "fastjsonschema"),
        "rivals_python": _about_python(str(RIVALS_PYTHON), "fastapi", "pydantic", "uvicorn", "uvloop", "httptools"),
        "fastify": json.loads(FASTIFY.read_text())["dependencies"]["fastify"],
        "wrk": (_output("wrk", "-v") or "").partition("[")[0].removeprefix("wrk").strip() or None,
        "node": _output("node", "--version"),
        "nginx": (_output("nginx", "-v") or "").rpartition("/")[2] or None,
    }


def _about_python(python: str, *packages: str) -> Result | None:
    about: Result | None = json.loads(_output(python, "-c", _ABOUT_PYTHON, *packages) or "null")
    return about


def _commit() -> str | None:
    """Return the current commit, with `-dirty` if anything other than results has uncommitted changes."""
    git = ("git", "-C", str(ROOT))
    commit = _output(*git, "rev-parse", "--short", "HEAD")
    changed = _output(*git, "status", "--porcelain", "--", ":!bench/results", ":!bench/README.md")
    return f"{commit}-dirty" if commit and changed else commit


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def file_system(folder: Path | None) -> str | None:
    """Return the type from /proc/mounts. `stat -f` cannot tell ext2, ext3 and ext4 apart."""
    return look_at_folder(folder or Path(os.environ.get("TMPDIR", "/tmp"))).file_system or None


def _output(*command: str) -> str | None:
    """Return a command's output; None if it is not installed or prints nothing."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    return (done.stdout + done.stderr).strip() or None
