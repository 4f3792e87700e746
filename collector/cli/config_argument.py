"""The option `--config FILE` of most commands."""

from argparse import ArgumentParser
from pathlib import Path

DEFAULT_CONFIG = Path("collector.toml")


def add_config_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="configuration file; default: %(default)s"
    )
