"""The command `serve`: one process, or a supervisor and its workers.

Most imports wait until the process knows its role. A supervisor needs none of a worker's modules, and without them it
takes a third of a worker's memory.
"""

import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from collector.config_file import load
from collector.daemon.arrow_setup import set_up_arrow
from collector.daemon.demo import check_demo
from collector.daemon.layout import check_layout
from collector.daemon.sd_notify import Manager
from collector.daemon.socket_activation import inherited
from collector.log.setup import set_up_logging
from collector.portable import LINUX, usable_cores

# Log rotation sends SIGUSR1 to make a daemon reopen its log file. The collector logs to stderr.
MEANINGLESS = (signal.SIGUSR1, signal.SIGUSR2)


def serve(config_file: Path, arguments: Sequence[str]) -> int:
    """Run until stopped. Returns the exit code. `arguments` is the command line from `serve` on."""
    _ignore(signal.SIGHUP)  # until reloads are possible
    _ignore(*MEANINGLESS)
    # SIGTERM exits at once until there is something to drain. Nothing is acknowledged yet, and start-up copes with a
    # disk left by a kill.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    manager, sockets = Manager.of(os.environ), inherited(os.environ)
    config = load(config_file)
    check_layout(config_file, config.storage)
    check_demo(config_file, config.tracker)
    set_up_logging()
    faulthandler.enable()  # the manager's watchdog sends SIGABRT: print the stack of each thread
    workers = processes(config.server.workers)
    if workers == 1:
        set_up_arrow()
        from collector.daemon import single_process

        return single_process.serve(config, config_file.absolute(), sockets, manager)
    from collector.daemon.workers import supervisor

    return supervisor.serve(config, config_file.absolute(), workers, command(arguments), sockets, manager)


def serve_as_worker(control: int) -> int:
    """Run as a worker of the supervisor at the other end of this descriptor. Returns the exit code."""
    _ignore(signal.SIGHUP)  # a closing terminal sends it; reloads come from the supervisor
    _ignore(*MEANINGLESS)
    set_up_arrow()
    from collector.daemon.workers import child

    return child.serve(control)


def _ignore(*numbers: signal.Signals) -> None:
    """Ignore these signals, which by default would end the process."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def processes(workers: int | str) -> int:
    """The number of workers. `auto` means one for each core that this process may use."""
    if isinstance(workers, int):
        return workers
    return usable_cores() if LINUX else 1  # several workers need Linux


def command(arguments: Sequence[str]) -> list[str]:
    """The command that started this program, without `arguments`: interpreter, flags, and module, script or folder.

    Workers start with it. So a binary's workers run from the folder that the supervisor was unpacked to, even after the
    binary has been replaced.
    """
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]]
