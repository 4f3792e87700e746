"""strace around a victim: system calls that kill it, fail or take long, and a log of the calls.

    python tests/crash/tracing.py LOG OPTIONS python SCRIPT ...     OPTIONS: strace's, as one JSON list

This attaches strace after the imports and before the first step. So only the collector's own calls are traced and
counted, not the thousands that Python makes at start-up. strace counts calls per thread. A kill happens before the call
is made. (`--seccomp-bpf` would ignore kills.)
"""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from shutil import which

STRACE = which("strace")
ATTACH_S = 20.0

_CALL = re.compile(r"(\d+) +(\w+)\((.*)")
_PATH = re.compile(r'<(/[^>"]*)>|"([^">]+)"')


def traced(log: Path, *options: str) -> tuple[str, ...]:
    """Return the prefix for the command of a victim."""
    return (sys.executable, __file__, str(log), json.dumps(options))


def options(calls: str, *inject: str, path: Path | None = None) -> tuple[str, ...]:
    """Return strace options that trace `calls`, such as `fsync,fdatasync`, and inject faults into them.

    `path`, below `data`, restricts both to one file or folder. A fault such as `error=EIO` or `error=EIO:when=3+`
    applies to all of `calls`; `fsync:error=EIO` applies to the calls it names.
    """
    faults = [fault if re.match(r"[a-z0-9,]+:", fault) else f"{calls}:{fault}" for fault in inject]
    return (
        *("-e", f"trace={calls}"),
        *(word for fault in faults for word in ("-e", f"inject={fault}")),
        *(word for name in ([] if path is None else _names(path)) for word in ("-P", name)),
    )


def _names(path: Path) -> list[str]:
    """Return the names of a path in system calls: absolute for a descriptor, else relative to its data_dir."""
    data_dir = next(folder for folder in path.parents if folder.name == "data")
    return [str(path), str(path.relative_to(data_dir))]


@contextmanager
def failing(pid: int, log: Path, *options: str) -> Iterator[None]:
    """Make calls of a running process fail until the block ends."""
    strace = _attach(pid, log, *options)
    try:
        yield
    finally:
        strace.send_signal(signal.SIGINT)  # strace detaches, and the process continues
        strace.wait(ATTACH_S)


def calls(log: Path, root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each call in the log: its thread, its name, and its place below `root`."""
    for line in log.read_text(errors="replace").splitlines():
        if match := _CALL.match(line):
            thread, name, arguments = match.groups()
            paths = [_path(found, root) for found in _PATH.finditer(arguments)]
            yield thread, name, place(paths[-1], root) if paths else "elsewhere"


def nth_call(log: Path, root: Path, n: int) -> tuple[str, str]:
    """Return name and place of the call that `when=n` hit: the first that was the nth of its kind in its thread."""
    count: Counter[tuple[str, str]] = Counter()
    for thread, name, where in calls(log, root):
        count[thread, name] += 1
        if count[thread, name] == n:
            return name, where
    raise AssertionError(f"no thread in {log} made {n} calls of one kind")


def ended(log: Path, pid: int) -> bool:
    """Return whether strace has logged the end of the process."""
    return re.search(rf"^{pid} +\+\+\+ ", log.read_text(errors="replace"), re.MULTILINE) is not None


def _path(found: re.Match[str], root: Path) -> Path:
    """Return the absolute path. Relative ones are below the data_dir, the collector's working directory."""
    return root / (found[1] or found[2])


def place(path: Path, root: Path) -> str:
    """Return a path below `root` without its variable parts, such as `journal/0/*.segment`."""
    if not path.is_relative_to(root):
        return "elsewhere"
    parts = path.relative_to(root).parts
    if not parts:
        return "."
    *folders, name = (re.sub(r"=.*", "=*", part) for part in parts)
    return "/".join((*folders, re.sub(r".*\.", "*.", name)))


@cache
def may_trace() -> bool:
    """Return whether strace is installed and may attach to a process that is not its child (Yama often forbids it)."""
    idle = subprocess.Popen(["sleep", "60"])
    try:
        with failing(idle.pid, Path(os.devnull), *options("fsync")):
            return True
    except AssertionError:
        return False
    finally:
        idle.kill()
        idle.wait()


def _attach(pid: int, log: Path, *options: str) -> subprocess.Popen[bytes]:
    assert STRACE is not None, "strace is installed"
    command = [STRACE, "-f", "-q", "-y", "-s", "0", "-o", str(log), *options, "-p", str(pid)]
    strace = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + ATTACH_S
    while not _all_traced(pid):
        assert strace.poll() is None, f"strace exited at once: {' '.join(command)}"
        assert time.monotonic() < until, "strace attaches"
        time.sleep(0.005)
    return strace


def _all_traced(pid: int) -> bool:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return not any("TracerPid:\t0\n" in (thread / "status").read_text() for thread in threads)
    except OSError:  # a thread has just ended
        return False


if __name__ == "__main__":
    _, log_file, options_json, _, *sys.argv = sys.argv
    as_module = sys.argv[0] == "-m"
    if as_module:
        del sys.argv[0]
    sys.path[0] = os.getcwd() if as_module else str(Path(sys.argv[0]).parent)
    import_module("collector.daemon.worker").warm_up()  # pyarrow imports some modules late; keep them out of the trace
    _attach(os.getpid(), Path(log_file), *json.loads(options_json))
    if as_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
