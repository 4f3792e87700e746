"""`collector schema`: print the contract as JSON Schema, or the columns of a part."""

import json
from argparse import ArgumentParser, Namespace

from collector.events import CONTRACT
from collector.parts.table import EVENT_SCHEMA


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = "Print the JSON Schema of an event, or the columns of a Parquet part."
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--json", action="store_true", help="print the JSON Schema of an event")
    which.add_argument("--parquet", action="store_true", help="print the name and type of each column of a part")


def run(arguments: Namespace) -> int:
    if arguments.parquet:
        for field in EVENT_SCHEMA:
            print(f"{field.name}: {field.type}")
    else:
        print(json.dumps(CONTRACT, indent=2, ensure_ascii=False))
    return 0
