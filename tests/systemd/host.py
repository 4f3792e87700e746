"""A host to break: systemd as PID 1 of a container, over a temporary overlay of this machine's root.

The container cannot affect this machine. It has its own processes, mounts, network (loopback only) and cgroups; its
writes stay in memory and vanish with it. The tests end it by its own pid.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.crash.conftest import need
from tests.system.process import wait_until

BOOT_S = 60.0
COMMAND_S = 150.0  # longer than TimeoutStopSec
CLONE_NEWNET = 0x40000000
LEFT_BEHIND = ("systemd/payload", "systemd/supervisor", "unified/payload", "unified/supervisor")

# A bind mount, in a mount namespace: a root file system cannot be the lower layer of an overlay on itself.
BOOT = """
mount --bind / "$1" && export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 && exec systemd-nspawn --quiet --directory="$1" \
  --volatile=overlay --machine="$2" --register=no --keep-unit --private-network --kill-signal=SIGRTMIN+3 \
  --console=pipe --boot systemd.unit=basic.target
"""

T = TypeVar("T")


class Host:
    """A booted host. `leader` is the pid of its PID 1 on this machine."""

    def __init__(self, leader: int) -> None:
        self._leader = leader

    @property
    def root(self) -> Path:
        """The root folder of its files."""
        return Path(f"/proc/{self._leader}/root")

    def run(self, *command: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command on the host as root, and wait until it ends."""
        done = subprocess.run(
            [
                *("nsenter", "--target", str(self._leader), "--all", "--"),
                *("env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"),
                *command,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def show(self, unit: str, name: str) -> str:
        """The value of a property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat >{path}", stdin=text)

    def on_its_network(self, do: Callable[[], T]) -> T:
        """Call `do` in a thread that uses the host's network."""
        results: list[T] = []
        failures: list[BaseException] = []

        def enter() -> None:
            try:
                with Path(f"/proc/{self._leader}/ns/net").open() as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(do())
            except BaseException as exc:  # noqa: BLE001 - raised again in the calling thread
                failures.append(exc)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        for failure in failures:
            raise failure
        return results[0]


@contextmanager
def booted(folder: Path) -> Iterator[Host]:
    """Boot a host for the duration of the block. If that is impossible, the test skips, or fails under CI."""
    need(os.geteuid() == 0, "root, to boot a systemd")
    need(bool(shutil.which("systemd-nspawn")), "systemd-nspawn (Debian: systemd-container)")
    root = folder / "root"
    root.mkdir()
    log = folder / "console"
    before = {name for name in LEFT_BEHIND if (Path("/sys/fs/cgroup") / name).exists()}
    with log.open("wb") as console:
        nspawn = subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "private", "sh", "-c", BOOT, "sh"),
                *(str(root), f"collector-{os.getpid()}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    try:
        wait_until(lambda: nspawn.poll() is not None or _first(nspawn.pid) is not None, "the host boots", BOOT_S)
        leader = _first(nspawn.pid)
        need(leader is not None, f"a container that boots ({' '.join(log.read_text().split()[-20:])})")
        assert leader is not None
        host = Host(leader)
        wait_until(
            lambda: host.run("systemctl", "is-active", "basic.target", check=False).returncode == 0,
            "it reaches basic.target",
        )
        yield host
    finally:
        _end(nspawn)
        for name in LEFT_BEHIND:
            if name not in before and (Path("/sys/fs/cgroup") / name).exists():
                _remove_cgroup(Path("/sys/fs/cgroup") / name)


def _first(nspawn: int) -> int | None:
    """The container's PID 1; None before it runs. The first child of nspawn only prepares the container."""
    try:
        for child in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
    except OSError:
        pass
    return None


def _end(nspawn: subprocess.Popen[bytes]) -> None:
    nspawn.send_signal(signal.SIGTERM)  # an orderly shutdown
    try:
        nspawn.wait(60)
    except subprocess.TimeoutExpired:
        nspawn.kill()  # then PID 1 dies, and with it everything in its namespace
        nspawn.wait(30)


def _remove_cgroup(folder: Path) -> None:
    for below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        below.rmdir()
    until = time.monotonic() + 5
    while folder.exists() and time.monotonic() < until:
        try:
            folder.rmdir()
        except OSError:
            time.sleep(0.1)
