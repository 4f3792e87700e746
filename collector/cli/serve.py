"""`collector serve`: take events until SIGTERM."""

import sys
from argparse import ArgumentParser, Namespace

from collector.cli.config_argument import add_config_argument
from collector.daemon.serve import serve


def add_arguments(parser: ArgumentParser) -> None:
    add_config_argument(parser)


def run(arguments: Namespace) -> int:
    return serve(arguments.config, sys.argv[1:])
