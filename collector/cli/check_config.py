"""`collector check-config`: print every error of a configuration file."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from collector.config_file import load
from collector.daemon.demo import check_demo
from collector.daemon.layout import check_layout, unreadable
from collector.daemon.public_sockets import hints
from collector.wording import count


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Check a configuration file as `serve` would read it, with COLLECTOR__* environment variables, and check that "
        "partition_by matches the files in data_dir, and that demo_dir can be read. Print every error; exit 2 if there "
        "is one."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="configuration file")


def run(arguments: Namespace) -> int:
    """Check the file, the environment, and the folders that it names. Raises ConfigError."""
    file: Path = arguments.file
    config = load(file)
    check_layout(file, config.storage)
    check_demo(file, config.tracker)
    for folder in unreadable(config.storage.data_dir):
        print(f"{folder}: cannot be read, so partition_by was not checked against it", file=sys.stderr)
    for hint in hints(config.server):
        print(f"{file}: {hint}", file=sys.stderr)
    print(f"{file}: valid; {count(len(config.sites), 'site')}")
    return 0
