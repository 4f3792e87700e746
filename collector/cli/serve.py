"""`collector serve`: run the collector until SIGTERM."""

import sys
from argparse import ArgumentParser, Namespace

from collector.cli.config_argument import add_config_argument
from collector.daemon.serve import serve


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Run the collector. On SIGTERM or SIGINT it stops accepting events, flushes those it has, and exits 0. On "
        "SIGHUP it reloads the configuration file."
    )
    add_config_argument(parser)


def run(arguments: Namespace) -> int:
    return serve(arguments.config, sys.argv[1:])
