"""Sites: the tenants named in the URL, with their settings prepared for look-ups.

A request looks settings up in tables and sets and never searches through them. Only `excluded_paths` with `*` cost one
linear match each.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from collector.addresses import AddressSet, parse_address
from collector.config import SiteSettings, as_origin
from collector.paths import decoded, pieces
from collector.recent import Recent

_HOST = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]/?#]*\]|[^/?#:]*)", re.IGNORECASE | re.ASCII)
_REST_OF_ORIGIN = re.compile(r"(?::([0-9]{0,5}))?(?:[/?#]|\Z)", re.ASCII)  # after the host

LONGEST_KNOWN_URL: Final = 300  # room for "https://", a host and a port
LONGEST_HOST: Final = 253  # RFC 1035 section 2.3.4, without the trailing dot
_ANY_IPV4: Final = IPv4Address(0)


@dataclass(frozen=True, slots=True)
class Site:
    """One tenant."""

    id: str
    tracking: bool
    excluded_ips: AddressSet
    excluded_paths: "PathSet"
    allowed_origins: "OriginSet | None"
    allow_localhost: bool
    strict: bool
    keys: frozenset[str]  # fingerprints
    flags_bots: bool  # the column `bot` names them
    drops_bots: bool
    respects_gpc: bool
    respects_dnt: bool


Sites = Mapping[str, Site]


def build_sites(settings: Mapping[str, SiteSettings]) -> Sites:
    """Every site by its id."""
    return {site_id: build_site(site_id, site) for site_id, site in settings.items()}


def build_site(site_id: str, settings: SiteSettings) -> Site:
    return Site(
        id=site_id,
        tracking=settings.tracking,
        excluded_ips=AddressSet(settings.excluded_ips),
        excluded_paths=PathSet(settings.excluded_paths),
        allowed_origins=OriginSet(settings.allowed_origins) if settings.allowed_origins else None,
        allow_localhost=settings.allow_localhost,
        strict=settings.strict,
        keys=frozenset(settings.keys),
        flags_bots=settings.bots != "ignore",
        drops_bots=settings.bots == "drop",
        respects_gpc=settings.respect_gpc,
        respects_dnt=settings.respect_dnt,
    )


class PathSet:
    """Page paths: exact, or globs where `*` is any run of characters, `/` included. See collector/paths.py."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._exact = frozenset(decoded(pattern) for pattern in patterns if "*" not in pattern)
        globs = [pieces(pattern) for pattern in patterns if "*" in pattern]
        self._begins = tuple(glob[0] for glob in globs if not any(glob[1:]))  # like `/admin/*`, the usual form
        self._globs = tuple(glob for glob in globs if any(glob[1:]))

    def __contains__(self, path: str) -> bool:
        """Whether a path is in the set. Its query and fragment are ignored; case matters."""
        if not self._exact and not self._begins and not self._globs:
            return False
        path = path.partition("#")[0].partition("?")[0]
        if "%" in path:
            path = decoded(path)
        if path in self._exact or path.startswith(self._begins):
            return True
        return bool(self._globs) and any(_glob_matches(glob, path) for glob in self._globs)


def _glob_matches(pieces: tuple[str, ...], path: str) -> bool:
    """Whether the path consists of the pieces, in order, with any characters between them.

    It is enough to find each piece at its first place after the previous one, so the cost is linear. A regular
    expression with n `.*` that fails needs time in proportion to the n-th power of the length.
    """
    first, *middle, last = pieces
    if len(path) < len(first) + len(last) or not path.startswith(first) or not path.endswith(last):
        return False
    at, end = len(first), len(path) - len(last)
    for piece in middle:
        found = path.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


class OriginSet:
    """Allowed origins: exact `scheme://host[:port]`, `*.host` for its subdomains, or `null`."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._exact = frozenset(origin for origin in origins if not origin.startswith("*."))
        self._parents = frozenset(origin.removeprefix("*.") for origin in origins if origin.startswith("*."))

    def names(self, origin: str) -> bool:
        """Whether the origin is listed exactly, not only as a subdomain."""
        return origin.lower() in self._exact

    def __contains__(self, origin: str) -> bool:
        if origin in self._exact or self.names(origin):
            return True
        host = known_host(origin).name if self._parents else None
        while host:
            host = host.partition(".")[2]
            if host in self._parents:
                return True
        return False


class Host:
    """The host of an origin or URL."""

    def __init__(self, name: str | None) -> None:
        self.name: Final = name  # as `host_of` returns it
        self.is_local: Final = name is not None and _is_local(name)  # whether it is this machine


_known_hosts: Final[Recent[str, Host]] = Recent(16_384)  # by origin or URL; 6 MB, and 22 MB at most


def known_host(url: str) -> Host:
    """The host of an origin or URL. Pages keep sending the same ones: a hit takes 0.05 us instead of 1 us."""
    host = _known_hosts.get(url)
    if host is None:
        host = Host(host_of(url))
        if len(url) <= LONGEST_KNOWN_URL and url.isascii():  # other characters take up to four bytes each
            _known_hosts.put(url, host)
    return host


def _is_local(host: str) -> bool:
    if len(host) > LONGEST_HOST:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = parse_address(host)
    return address is not None and (address.is_loopback or address == _ANY_IPV4)


def host_of(url: str | None) -> str | None:
    """The host of an origin or URL in lower case, without port, user and trailing dot; None if it has no host."""
    match = _HOST.match(url) if url else None
    host = match[1].lower().removesuffix(".") if match else ""
    return host.strip("[]") or None


def origin_of(url: str | None) -> str | None:
    """The origin of a URL, as browsers send it; None if it has none."""
    match = _HOST.match(url) if url else None
    rest = _REST_OF_ORIGIN.match(match.string, match.end()) if match else None
    if match is None or rest is None or not match[1]:
        return None
    return as_origin(match[0].partition(":")[0].lower(), match[1].lower(), rest[1])
