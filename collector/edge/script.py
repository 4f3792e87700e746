"""The tracker's script: its versions, and the paths under which each is served.

    t.js           the current version; browsers ask again after an hour
    t-<hash>.js    one version for ever, so that pages can pin it with an integrity hash

Both are served at the root and at /public/{site}/, to which proxies may restrict the collector.

`make tracker` builds `collector/tracker/`. Every released version stays in `collector/tracker/released/`: a page that
pinned it would send nothing any more without it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from aiohttp import hdrs

from collector.config import DEFAULT_SCRIPT_PATH, Tracker
from collector.edge.files import File
from collector.edge.negotiation import IDENTITY

_FOLDER = files("collector") / "tracker"
_RELEASED = re.compile(r"t-([0-9a-f]{12})\.js")
_SUFFIXES = {"br": ".br", "gzip": ".gz", IDENTITY: ""}  # best first

_HEADERS = (
    (hdrs.CONTENT_TYPE, "text/javascript; charset=utf-8"),
    (hdrs.ACCESS_CONTROL_ALLOW_ORIGIN, "*"),  # without it a browser cannot check an integrity hash
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("X-Content-Type-Options", "nosniff"),
)
CURRENT = (hdrs.CACHE_CONTROL, "public, max-age=3600, stale-while-revalidate=86400")
PINNED = (hdrs.CACHE_CONTROL, "public, max-age=31536000, immutable")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the script, by encoding."""

    content: dict[str, bytes]

    @property
    def hash(self) -> str:
        """What names it in a path."""
        return hashlib.sha256(self.content[IDENTITY]).hexdigest()[:12]

    @property
    def integrity(self) -> str:
        """The value of the `integrity` attribute (Subresource Integrity, 3.2)."""
        return f"sha384-{base64.b64encode(hashlib.sha384(self.content[IDENTITY]).digest()).decode()}"


@cache
def current() -> Version:
    return _read(_FOLDER, DEFAULT_SCRIPT_PATH)


@cache
def released() -> tuple[Version, ...]:
    """The versions of earlier releases."""
    folder = _FOLDER / "released"
    names = sorted(file.name for file in folder.iterdir() if _RELEASED.fullmatch(file.name))
    return tuple(_read(folder, name) for name in names)


def types() -> str:
    """The TypeScript types of the script's API."""
    return (_FOLDER / "collector.d.ts").read_text()


def pinned_name(name: str, version: Version) -> str:
    return f"{name.removesuffix('.js')}-{version.hash}.js"


def scripts(tracker: Tracker) -> dict[str, File]:
    """Every name that serves the script, and what it serves. The default's stay, for the pages that have them."""
    found: dict[str, File] = {}
    for name in (DEFAULT_SCRIPT_PATH, tracker.script_path):
        for version in (*released(), current()):
            found[pinned_name(name, version)] = File((*_HEADERS, PINNED), version.content)
        found[name] = File((*_HEADERS, CURRENT), current().content)
    return found


def _read(folder: Traversable, name: str) -> Version:
    return Version({encoding: (folder / f"{name}{suffix}").read_bytes() for encoding, suffix in _SUFFIXES.items()})
