"""`collector key`: make a key for a sender that is no browser."""

import sys
from argparse import ArgumentParser, Namespace

from collector.sender_keys import fingerprint, new_key


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Make a key for a sender that is no browser, such as a server or `collector import`. Print the key, and in a "
        "second line its fingerprint, quoted for `keys` of a site in the configuration. The key is stored nowhere."
    )


def run(arguments: Namespace) -> int:
    """Print both lines to stdout, and what each is for to stderr."""
    key = new_key()
    print(
        "Line 1 is the key. Keep it secret: the sender sends it as `Authorization: Bearer KEY`.\n"
        "Line 2 is for the configuration: put it into `keys = [...]` of the site. It is not secret.",
        file=sys.stderr,
    )
    print(f'{key}\n"{fingerprint(key)}"')
    return 0
