"""`collector tracker`: print the line of HTML that loads the tracker, or the TypeScript types of its API."""

import sys
from argparse import ArgumentParser, Namespace
from html import escape

from collector.cli.config_argument import add_config_argument
from collector.cli.url_argument import base_of
from collector.config import DEFAULT_COLLECT_PATH, SITE_ID, Tracker
from collector.config_file import ConfigError, load
from collector.edge.script import current, pinned_name, types

PLACEHOLDER = "https://collect.example.com"


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Print the line of HTML that loads the tracker on the pages of a site, another form of it that pins this "
        "version by its hash, and a line for browsers without JavaScript. Or print the TypeScript types of the "
        "tracker's API."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--snippet", metavar="SITE", help="print the HTML for this site of the configuration")
    which.add_argument("--types", action="store_true", help="print the TypeScript types, a file collector.d.ts")
    parser.add_argument("--url", help=f"address at which browsers reach the collector, such as {PLACEHOLDER}")
    add_config_argument(parser)


def run(arguments: Namespace) -> int:
    """Print what is asked for. Raises ConfigError."""
    if arguments.types:
        print(types(), end="")
        return 0
    site_id: str = arguments.snippet
    if not SITE_ID.fullmatch(site_id):
        raise ConfigError(["--snippet: a site id is 1 to 64 characters out of A-Z a-z 0-9 _ -"])
    config = load(arguments.config)
    if site_id not in config.sites:
        raise ConfigError([f"{arguments.config}: has no [sites.{site_id}] section"])
    print(snippet(site_id, base_of(PLACEHOLDER if arguments.url is None else arguments.url), config.tracker))
    if arguments.url is None:
        print(f"Replace {PLACEHOLDER} by the address of your collector, or give it with --url.", file=sys.stderr)
    return 0


def snippet(site_id: str, base: str, tracker: Tracker) -> str:
    """Both forms, and the pixel, as HTML."""
    version = current()
    path = {} if tracker.collect_path == DEFAULT_COLLECT_PATH else {"data-path": tracker.collect_path}
    latest = {"src": f"{base}/public/{site_id}/{tracker.script_path}"}
    pinned = {
        "src": f"{base}/public/{site_id}/{pinned_name(tracker.script_path, version)}",
        "integrity": version.integrity,
        "crossorigin": "anonymous",
        "data-site": site_id,
    }
    return "\n".join(
        (
            "<!-- Choose one of the two. This one is always the current version: -->",
            _script(latest | path),
            "",
            "<!-- This one is only this version, which the browser checks before it runs it: -->",
            _script(pinned | path),
            "",
            "<!-- If you like, add this one, which counts pageviews in browsers without JavaScript: -->",
            _pixel(f"{base}/public/{site_id}/p.gif"),
        )
    )


def _pixel(url: str) -> str:
    # By default, browsers tell other origins only the origin of the page, and not its path.
    policy = 'referrerpolicy="no-referrer-when-downgrade"'
    return f'<noscript><img src="{escape(url)}" alt="" width="1" height="1" {policy}></noscript>'


def _script(attributes: dict[str, str]) -> str:
    shown = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
    return f"<script defer{shown}></script>"
