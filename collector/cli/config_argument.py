"""`--config FILE`, which most commands take."""

from argparse import ArgumentParser
from pathlib import Path

DEFAULT_CONFIG = Path("collector.toml")


def add_config_argument(parser: ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")
