"""`collector check-config`: the errors of a configuration file, all at once."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from collector.config_file import load
from collector.daemon.layout import check_layout, unreadable


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")


def run(arguments: Namespace) -> int:
    """Read the file as `serve` would, environment included, and check that the data_dir fits it."""
    file: Path = arguments.file
    config = load(file)
    check_layout(file, config.storage)
    for unseen in unreadable(config.storage.data_dir):
        print(f"{unseen}: cannot be looked into, so partition_by was not held against it", file=sys.stderr)
    print(f"{file}: good; {len(config.sites)} sites")
    return 0
