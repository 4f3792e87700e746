"""`collector worker`: one of the processes that the supervisor of `collector serve` starts. In no help."""

from argparse import ArgumentParser, Namespace

from collector.daemon.serve import serve_as_worker


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("number", type=int)  # for whoever reads a list of processes
    parser.add_argument("control", type=int)


def run(arguments: Namespace) -> int:
    """Serve as the supervisor says, at the other end of the descriptor `control`."""
    return serve_as_worker(arguments.control)
