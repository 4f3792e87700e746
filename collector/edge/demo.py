"""The paths of the demo, and how its files are served."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import quote

from aiohttp import hdrs

from collector.edge.files import File, Redirect
from collector.edge.negotiation import IDENTITY

ROOT = "/demo/"
_INDEX = "index.html"

# Not from `mimetypes`, which reads tables of the system that differ.
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".zip": "application/zip",
}
_PLAIN = "/!$&'()*+,:;=@"  # what browsers leave as it is in a path, beside letters, digits and `-._~` (WHATWG URL, 1.3)
_UNKNOWN = "application/octet-stream"


def demo_files(content: Mapping[str, bytes]) -> dict[str, File | Redirect]:
    """Every path of the demo, and what it serves. `content`: of each file, by its path within the folder."""
    found: dict[str, File | Redirect] = {}
    if content:
        found[ROOT.rstrip("/")] = Redirect(ROOT.strip("/") + "/")
    for name, body in content.items():
        path = PurePosixPath(name)
        headers = (
            (hdrs.CONTENT_TYPE, _TYPES.get(path.suffix.lower(), _UNKNOWN)),
            (hdrs.CACHE_CONTROL, "no-cache"),
            ("X-Content-Type-Options", "nosniff"),
        )
        file = File(headers, {IDENTITY: body})
        found[ROOT + quote(name, _PLAIN)] = file
        if path.name == _INDEX:
            found[ROOT + quote(name.removesuffix(_INDEX), _PLAIN)] = file
    return found
