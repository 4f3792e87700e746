"""The option `--url URL`: the address of a collector."""

import json
import re
from urllib.parse import urlsplit

from collector.config_file import ConfigError

# What may stand in a URL (RFC 3986, 2), without what would begin a query or a fragment.
_URL = re.compile(r"https?://[A-Za-z0-9._~:/@!$&'()*+,;=%\[\]-]+", re.IGNORECASE)


def base_of(url: str) -> str:
    """The URL without a slash at its end. A proxy may serve the collector below a path. Raises ConfigError."""
    try:
        parts = urlsplit(url) if _URL.fullmatch(url) else None
        if parts is not None and parts.hostname and parts.port != 0 and "@" not in parts.netloc:
            return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    except ValueError:  # the port is no number, or an address has no closing bracket
        pass
    raise ConfigError([f'--url: should be "https://host", or "http://host:port/path"; got {json.dumps(url[:80])}'])
