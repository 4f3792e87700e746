"""The command `serve`: one process, or a supervisor and its workers.

This module imports little, and what it needs only when it is known: a supervisor needs none of what a worker does, and
takes a third of its memory.
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

# What log rotation sends to whoever has a pid file (to open its log anew: ours is stderr), and its sibling.
MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2)


def serve(config_file: Path, arguments: Sequence[str]) -> int:
    """Run until SIGTERM. `arguments` are those of the command line, `serve` itself among them."""
    _ignore(signal.SIGHUP)  # until there is something to reload
    _ignore(*MEANINGLESS)
    # A stop is done at once until there is something to drain: nothing is acknowledged yet, and the disk is as a kill
    # would leave it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    manager, sockets = Manager.of(os.environ), inherited(os.environ)
    config = load(config_file)
    check_layout(config_file, config.storage)
    set_up_logging()
    faulthandler.enable()  # says where each thread was when the manager's watchdog ended us, with SIGABRT
    workers = processes(config.server.workers)
    if workers == 1:
        from collector.daemon import single_process

        return single_process.serve(config, config_file.absolute(), sockets, manager)
    from collector.daemon.workers import supervisor

    return supervisor.serve(config, config_file.absolute(), workers, command(arguments), sockets, manager)


def serve_as_worker(control: int) -> int:
    """Run as the supervisor says, which is at the other end of that descriptor."""
    _ignore(signal.SIGHUP)  # of a terminal that closes; a reload comes from the supervisor
    _ignore(*MEANINGLESS)
    from collector.daemon.workers import child

    return child.serve(control)


def _ignore(*numbers: signal.Signals) -> None:
    """The default of these is to end us."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def processes(workers: int | str) -> int:
    """How many workers there are to be; `auto`: one for each core that this process may use."""
    if isinstance(workers, int):
        return workers
    return usable_cores() if LINUX else 1  # elsewhere there is no supervisor


def command(arguments: Sequence[str]) -> list[str]:
    """What started this program, without its arguments: interpreter and flags, and module, script or folder.

    A binary's workers so start from what the supervisor was unpacked to, whatever has become of the binary since.
    """
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]]
