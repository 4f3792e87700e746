"""The command `serve`: one process, or a supervisor and its workers.

Most imports wait until the process knows its role: a supervisor needs none of a worker's modules, and takes a third of
its memory.
"""

import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from collector.config_file import load
from collector.daemon.layout import check_layout
from collector.daemon.sd_notify import Manager
from collector.daemon.socket_activation import inherited
from collector.log.setup import set_up_logging
from collector.portable import LINUX, usable_cores

# Log rotation sends SIGUSR1 to daemons that should reopen their log file; this one logs to stderr.
MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2)


def serve(config_file: Path, arguments: Sequence[str]) -> int:
    """Run until SIGTERM. `arguments` are those of the command line, including `serve` itself."""
    _ignore(signal.SIGHUP)  # until there is something to reload
    _ignore(*MEANINGLESS)
    # Until there is something to drain, SIGTERM exits at once: nothing is acknowledged yet, and the disk is as after a
    # kill.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    manager, sockets = Manager.of(os.environ), inherited(os.environ)
    config = load(config_file)
    check_layout(config_file, config.storage)
    set_up_logging()
    faulthandler.enable()  # prints each thread's stack when the manager's watchdog sends SIGABRT
    workers = processes(config.server.workers)
    if workers == 1:
        from collector.daemon import single_process

        return single_process.serve(config, config_file.absolute(), sockets, manager)
    from collector.daemon.workers import supervisor

    return supervisor.serve(config, config_file.absolute(), workers, command(arguments), sockets, manager)


def serve_as_worker(control: int) -> int:
    """Run as a worker of the supervisor at the other end of this descriptor."""
    _ignore(signal.SIGHUP)  # sent when a terminal closes; reloads come from the supervisor
    _ignore(*MEANINGLESS)
    from collector.daemon.workers import child

    return child.serve(control)


def _ignore(*numbers: signal.Signals) -> None:
    """Ignore signals whose default action ends the process."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def processes(workers: int | str) -> int:
    """The number of workers; `auto` is one for each core that this process may use."""
    if isinstance(workers, int):
        return workers
    return usable_cores() if LINUX else 1  # elsewhere there is no supervisor


def command(arguments: Sequence[str]) -> list[str]:
    """The command that started this program, without its arguments: interpreter, flags, and module, script or folder.

    So a binary's workers start from the folder that the supervisor was unpacked to, even if the binary is replaced.
    """
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]]
