"""`collector worker`: a process that the supervisor of `collector serve` starts. The help does not list it."""

from argparse import ArgumentParser, Namespace

from collector.daemon.serve import serve_as_worker


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = "Internal: the supervisor of `collector serve` starts workers with this command."
    parser.add_argument("number", type=int, help="number of the worker, shown in the list of processes")
    parser.add_argument("control", type=int, help="descriptor of the channel to the supervisor")


def run(arguments: Namespace) -> int:
    """Serve, controlled by the supervisor at the other end of the descriptor `control`."""
    return serve_as_worker(arguments.control)
