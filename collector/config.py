"""The settings. Each is declared once, here, with its default, its unit and its meaning.

docs/settings.md is made from these declarations. `collector/config_file.py` reads the values.
"""

import os
import re
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
)

from collector.addresses import UNIX, Network, parse_address, parse_network
from collector.events import CONTRACT
from collector.paths import pieces
from collector.sender_keys import FINGERPRINT

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")  # browsers send other letters as punycode
_ORIGIN = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>{_HOST.pattern}|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{{1,5}}))?/?"
)
_URL = re.compile(r"(\*|[a-z][a-z0-9+.-]*)://[^/?#]*(?P<path>[^?#]*)", re.IGNORECASE)
_PAGE_PATH_MAX: int = CONTRACT["properties"]["page_path"]["maxLength"]
_ENDS_IN_NUMBER = re.compile(r"(^|\.)([0-9]+|0x[0-9a-f]*)\.?$")  # browsers parse such a host as an IPv4 address
MAX_WORKERS = 256
LONGEST_SOCKET_PATH_BYTES = 107  # sun_path of Linux's sockaddr_un, without its final zero byte
_MODE = re.compile("0?[0-7]{3}")
CLIENT_IP_HEADERS = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP")
SITE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
# In a Hive partition this name means "no value": pandas fails on it, and other readers return null. No reader fails on
# other ids that look like a value (`null`, `nan`, `true`, `007`; tests/system/test_readers.py).
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"

DEFAULT_SCRIPT_PATH = "t.js"
DEFAULT_COLLECT_PATH = "e"
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]{1,64}", re.ASCII)
_RESERVED = ("batch", "p.gif", "analytics")  # other endpoints of a site
_PINNED = re.compile(r".*-[0-9a-f]{12}\.js")


def site_id_like(text: str) -> str:
    """A valid site id that resembles the text; empty if there is none."""
    return re.sub("[^A-Za-z0-9_-]+", "-", text).strip("-")[:64]


def _site_id(value: str) -> str:
    if not SITE_ID.fullmatch(value):
        example = f", such as {site_id_like(value)}" if site_id_like(value) else ""
        raise ValueError(
            f"a site id should be 1 to 64 characters out of A-Z a-z 0-9 _ - (it becomes a folder name){example}"
        )
    if value == _NO_VALUE:
        raise ValueError(f"a site id should not be {_NO_VALUE}, which readers of the files treat as a missing value")
    return value


def _network(value: object) -> Network:
    network = parse_network(value if isinstance(value, str) else "")
    if network.num_addresses == 1 and network.network_address.is_unspecified:
        every = f'every IPv{network.version} address is "{network.network_address}/0"'
        raise ValueError(f"is not the address of any client; {every}")
    return network


def _trusted_proxy(value: object) -> Network | str:
    if value == UNIX:
        return UNIX
    if isinstance(value, str) and (value.lower().startswith(UNIX) or not re.search("[0-9:]", value)):
        raise ValueError(f'should be an address, a network, or "{UNIX}" (peers on the Unix socket)')
    return _network(value)


def _client_ip_header(value: str) -> str:
    for name in CLIENT_IP_HEADERS:
        if value.lower() == name.lower():
            return name
    raise ValueError(f"should be one of {', '.join(CLIENT_IP_HEADERS)}")


def _host(value: str) -> str:
    if parse_address(value) is None and re.search(r"[:/*@\[\]\s]", value):
        raise ValueError(
            'should be only an address or a host name, such as "127.0.0.1", "::1" or "0.0.0.0" (every IPv4 address of '
            "this machine); the port is a separate setting"
        )
    return value


def _allowed_origin(value: str) -> str:
    """`null`, `*.host`, or an origin as browsers send it: in lower case, without a default port.

    An origin that no browser sends is an error. It would look right and refuse every event.
    """
    if value == "null":
        return value
    lower = value.lower()
    if lower.startswith("*.") and _HOST.fullmatch(lower[2:]) and not _ENDS_IN_NUMBER.search(lower):
        return lower.removesuffix(".")  # `host_of` drops the dot of a request's host too
    match = _ORIGIN.fullmatch(lower)
    if match is None or not 0 < int(match["port"] or 1) <= 65535:
        punycode = "" if value.isascii() else ", in punycode (xn--), as browsers send it"
        raise ValueError(f'should be "https://host", "https://host:port", "*.host" or "null"{punycode}')
    if match["scheme"] in _NEVER_ORIGINS:
        raise ValueError(f"has a scheme that no origin has; {_NEVER_ORIGINS[match['scheme']]}")
    return as_origin(match["scheme"], _as_sent(match["host"]), match["port"])


# Schemes that no origin has, and the origin (HTML, 7.1.1) that is sent instead.
_NEVER_ORIGINS = {
    "ws": 'a web socket sends the origin of its page, "http://host"',
    "wss": 'a web socket sends the origin of its page, "https://host"',
} | dict.fromkeys(("ftp", "file", "data", "about", "blob", "javascript"), 'such a page sends "null"')


def as_origin(scheme: str, host: str, port: str | None) -> str:
    """The origin as browsers send it (RFC 6454, 6.2), without a default port. The arguments are in lower case."""
    if not port or int(port) == {"http": 80, "https": 443}.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"


def _as_sent(host: str) -> str:
    """The host as browsers send it: an address in its one canonical form (WHATWG URL, 3.5)."""
    try:
        if host.startswith("["):
            return f"[{_shortest(IPv6Address(host[1:-1]))}]"
        if _ENDS_IN_NUMBER.search(host):
            return str(IPv4Address(host))
    except ValueError:
        raise ValueError(f'has a host that reads as an IP address, but "{host}" is not a valid one') from None
    return host


def _shortest(address: IPv6Address) -> str:
    """The shortest form, without the dotted end that later versions of Python give to IPv4-mapped addresses."""
    mapped = address.ipv4_mapped
    return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}" if mapped else str(address)


def _excluded_path(value: str) -> str:
    """A pattern that no `page_path` can match is an error. It would look right and exclude nothing."""
    url = _URL.match(value)
    if url is not None:
        raise ValueError(f'is a complete URL; should be only its path, "{url["path"] or "/"}"')
    for char, escape in (("?", "%3F"), ("#", "%23")):
        if char in value:
            raise ValueError(
                f'has "{char}", but page_path is compared without its query and fragment; remove "{char}" and what '
                f'follows, or write "{escape}" to match the character itself'
            )
    parts = pieces(value)
    if not value.startswith("*") and not parts[0].startswith("/"):
        raise ValueError('should begin with "/" or "*"')
    # The length of the shortest page_path that matches: `?` and `#` must be escaped in it, the rest need not.
    if sum(len(part) + 2 * (part.count("?") + part.count("#")) for part in parts) > _PAGE_PATH_MAX:
        raise ValueError(f"matches only paths longer than {_PAGE_PATH_MAX} characters, the limit of page_path")
    return value


def _partition_by(value: tuple[str, ...]) -> tuple[str, ...]:
    if value not in (("site", "date"), ("date",)):
        raise ValueError('should be ["site", "date"] or ["date"]')
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or "\0" in str(value) or not str(value):
        raise ValueError("should be the path of a folder")
    if str(value).startswith(("~", "$")):
        raise ValueError('should be the path of a folder without "~" or "$HOME", which are not expanded')
    if "://" in str(value):
        raise ValueError("should be the path of a folder, not a URL")
    return Path(value)


def _segment(value: str) -> str:
    if not _SEGMENT.fullmatch(value) or value in (".", ".."):
        raise ValueError("should be one part of a path: 1 to 64 characters out of A-Z a-z 0-9 . _ ~ -, and no slash")
    if value in _RESERVED:
        raise ValueError(f"should not be one of {', '.join(_RESERVED)}, which have another meaning")
    if _PINNED.fullmatch(value):
        raise ValueError('should not end in "-", 12 hex digits and ".js", as the names of pinned scripts do')
    return value


def _script_path(value: str) -> str:
    if not value.endswith(".js") or value == ".js":
        raise ValueError('should end in ".js", such as "t.js"')
    return value


def _demo_dir(value: str) -> str:
    return str(_path(value)) if value else value


def _socket_path(value: str) -> str:
    if not value:
        return value
    if "\0" in value or value.startswith(("~", "$", "@")) or "://" in value or value.endswith("/"):
        raise ValueError('should be a path, such as "/run/collector/collector.sock"')
    if len(os.fsencode(value)) > LONGEST_SOCKET_PATH_BYTES:
        raise ValueError(f"should have at most {LONGEST_SOCKET_PATH_BYTES} bytes, the system's limit for a Unix socket")
    return value


def _mode(value: str) -> str:
    if not _MODE.fullmatch(value):
        raise ValueError('should be three octal digits, such as "0660" (owner and group) or "0666" (everyone)')
    return value


def _key(value: str) -> str:
    """The fingerprint of a key. An error never repeats the value, which may be the key itself."""
    if not FINGERPRINT.fullmatch(value):
        raise ValueError('should be "sha256:" and 64 lower-case hex digits, as `collector key` prints it')
    return value


def _workers(value: object) -> int | str:
    if value == "auto" or (type(value) is int and 1 <= value <= MAX_WORKERS):
        return value
    raise ValueError(f'should be a number from 1 to {MAX_WORKERS}, or "auto"')


# Lists become tuples, which cannot be changed. Each needs `strict=False`, because TOML gives lists.
NetworkText = Annotated[Network, PlainValidator(_network)]
TrustedProxyText = Annotated[Network | str, PlainValidator(_trusted_proxy)]
ClientIpHeaderText = Annotated[str, AfterValidator(_client_ip_header)]
PagePathText = Annotated[str, AfterValidator(_excluded_path)]
HostText = Annotated[str, AfterValidator(_host)]
OriginText = Annotated[str, AfterValidator(_allowed_origin)]
SiteId = Annotated[str, AfterValidator(_site_id)]
PathText = Annotated[Path, PlainValidator(_path)]
KeyText = Annotated[str, AfterValidator(_key)]
SegmentText = Annotated[str, AfterValidator(_segment)]
ScriptPathText = Annotated[SegmentText, AfterValidator(_script_path)]
SocketPathText = Annotated[str, AfterValidator(_socket_path)]
ModeText = Annotated[str, AfterValidator(_mode)]
DemoDirText = Annotated[str, AfterValidator(_demo_dir)]


class Section(BaseModel):
    """A table of the file. Types are strict: `port = "80"` is an error, not 80."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Server(Section):
    host: HostText = Field(
        "127.0.0.1", description="address that the public port listens on; empty: no port, only `unix_socket`"
    )
    port: int = Field(8080, ge=0, le=65535, description="public port, which clients send events to; 0: any free port")
    unix_socket: SocketPathText = Field(
        "",
        description="path of a Unix socket that takes the same requests, for a proxy on this machine; a relative path "
        "starts in the working directory; empty: none",
    )
    unix_socket_mode: ModeText = Field("0660", description="permissions of `unix_socket`, in octal digits")
    workers: Annotated[int | Literal["auto"], PlainValidator(_workers)] = Field(
        1,
        description='number of worker processes, 1 to 256; `"auto"`: one per CPU core that the collector may use',
    )
    trusted_proxies: tuple[TrustedProxyText, ...] = Field(
        (),
        strict=False,
        description="addresses and networks of the proxies whose `client_ip_header` is believed; `unix` for proxies "
        "that connect to `unix_socket`",
    )
    client_ip_header: ClientIpHeaderText = Field(
        "X-Forwarded-For",
        description="header in which trusted proxies give the client's address: `X-Forwarded-For`, `Forwarded`, "
        "`X-Real-IP`, `CF-Connecting-IP` or `True-Client-IP`",
    )
    max_body_bytes: int = Field(
        65536, ge=1, le=16 * 2**20, description="largest request body accepted, in bytes; a larger one gets 413"
    )
    max_batch_bytes: int = Field(
        4 * 2**20,
        ge=1,
        le=16 * 2**20,
        description="largest batch of events accepted, in bytes, unpacked; a larger one gets 413",
    )
    body_timeout_s: float = Field(
        10,
        gt=0,
        le=86_400,
        description="longest time for a request's head to arrive, and again for its body, in seconds",
    )
    max_connections_per_client: int = Field(
        1000,
        ge=0,
        description="most connections that one client may have open to each worker, trusted proxies excepted; "
        "0: no limit",
    )
    keepalive_timeout_s: float = Field(
        75, gt=0, le=86_400, description="time after which a connection without a request is closed, in seconds"
    )
    fast_path: bool = Field(
        True,
        description="whether most requests bypass aiohttp, which saves CPU; the responses are the same either way",
    )
    shutdown_timeout_s: float = Field(
        15,
        gt=0,
        le=86_400,
        description="longest time that a shutdown waits for requests, waits for a hanging disk, and retries a failing "
        "flush, in seconds each",
    )


class Admin(Section):
    host: HostText = Field("127.0.0.1", min_length=1, description="address that the admin port listens on")
    port: int = Field(9090, ge=0, le=65535, description="admin port, for metrics and health checks; 0: any free port")


class Storage(Section):
    data_dir: PathText = Field(
        Path("data"),
        description="folder for everything the collector stores; a relative path starts in the working directory",
    )
    flush_interval_s: float = Field(
        60, gt=0, le=86_400, description="longest time between two flushes of events to Parquet files, in seconds"
    )
    segment_max_bytes: int = Field(
        64 * 2**20,
        ge=65536,
        le=2**30,
        description="memory at which a worker's buffered events are flushed before the interval is over, in bytes; "
        "events of many sites are compressed there, so more of them fit",
    )
    journal_max_bytes: int = Field(
        4 * 2**30,
        ge=65536,
        description="size of the unpublished events at which new ones get 503, in bytes, shared equally by the "
        "workers; with durability `memory` at most 4 times `segment_max_bytes` per worker",
    )
    durability: Literal["fsync", "write", "memory"] = Field(
        "fsync",
        description="what an acknowledged event survives: `fsync` a power cut, `write` a crash of the process, "
        "`memory` only an orderly shutdown",
    )
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = Field(
        "zstd", description="compression of the Parquet files: `zstd`, `snappy`, `gzip`, `lz4` or `none`"
    )
    min_free_bytes: int = Field(
        256 * 2**20, ge=0, description="free space of the data disk below which events get 503, in bytes"
    )
    partition_by: Annotated[tuple[str, ...], AfterValidator(_partition_by)] = Field(
        ("site", "date"),
        strict=False,
        description='folder levels of `events/`: `["site", "date"]`, or `["date"]` for thousands of sites; '
        "must not change once there are events",
    )
    rejected_max_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="largest size of `rejected/`, in bytes; the oldest files are deleted first; 0: invalid events are "
        "not kept",
    )
    retention_days: int = Field(
        0, ge=0, le=36_500, description="days before today (UTC) whose stored and rejected events are kept; 0: all days"
    )

    @field_validator("journal_max_bytes")
    @classmethod
    def _holds_a_segment(cls, value: int, info: ValidationInfo) -> int:
        segment_max_bytes = info.data.get("segment_max_bytes", 0)  # missing if it is invalid itself
        if value < segment_max_bytes:
            raise ValueError(f"should be at least segment_max_bytes, {segment_max_bytes}")
        return value


class RateLimit(Section):
    requests_per_minute: int = Field(
        1200, ge=0, le=60_000_000, description="requests that one client may send per minute; more get 429; 0: no limit"
    )
    burst: int = Field(
        1200, ge=1, le=10_000_000, description="requests that one client may send at once: the size of its token bucket"
    )
    ipv6_prefix: int = Field(
        64, ge=1, le=128, description="IPv6 addresses that share this many leading bits are one client"
    )


class Privacy(Section):
    client_ip: Literal["none", "truncate", "hash", "full"] = Field(
        "none",
        description="what is stored of a client's address: `none` nothing, `truncate` its /24 (IPv4) or /48 (IPv6), "
        "`hash` a hash with a new key every day, `full` the complete address",
    )


class Tracker(Section):
    script_path: ScriptPathText = Field(
        DEFAULT_SCRIPT_PATH,
        description="name of the tracker's script at `/public/<id>/` and at `/`; should end in `.js`; "
        f"`{DEFAULT_SCRIPT_PATH}` stays too, so pages that have it go on",
    )
    collect_path: SegmentText = Field(
        DEFAULT_COLLECT_PATH,
        description="last part of the path that the tracker sends events to, `/public/<id>/<part>`; "
        f"`{DEFAULT_COLLECT_PATH}` stays too",
    )
    demo_dir: DemoDirText = Field(
        "",
        description="folder of a demo page, whose files are read at the start and served at `/demo/`: at most 100 "
        "files and 2 MB, hidden files left out; a relative path starts in the working directory; empty: no demo",
    )

    @field_validator("collect_path")
    @classmethod
    def _is_no_script(cls, value: str, info: ValidationInfo) -> str:
        if value in (DEFAULT_SCRIPT_PATH, info.data.get("script_path")):  # missing if it is invalid itself
            raise ValueError("should not be the name of the script")
        return value


class SiteSettings(Section):
    tracking: bool = Field(
        True, description="whether the site's events are stored; if `false`, they get 202 and are dropped"
    )
    excluded_ips: tuple[NetworkText, ...] = Field(
        (), strict=False, description="clients whose events are dropped with 202: IPv4 and IPv6 addresses and networks"
    )
    excluded_paths: tuple[PagePathText, ...] = Field(
        (),
        strict=False,
        description="pages whose events are dropped with 202: exact paths, or patterns where `*` matches any "
        "characters",
    )
    allowed_origins: tuple[OriginText, ...] = Field(
        (),
        strict=False,
        description="origins that may send events, such as `https://example.com`, or `*.example.com` for subdomains; "
        "others get 403; empty: any origin",
    )
    allow_localhost: bool = Field(
        False,
        description="whether events from pages on localhost are stored; an origin that `allowed_origins` lists exactly "
        "is accepted anyway",
    )
    strict: bool = Field(
        False,
        description="whether an invalid event gets 422 with every error, instead of 202 with the first; meant for "
        "testing a new site",
    )
    keys: tuple[KeyText, ...] = Field(
        (),
        strict=False,
        description="fingerprints of the keys of senders that are no browsers, such as servers and imports, as "
        "`collector key` prints them; events with a key have no rate limit",
    )
    bots: Literal["flag", "drop", "ignore"] = Field(
        "flag",
        description="what happens to events whose user agent is a known bot's: `flag` stores its name in the column "
        "`bot`, `drop` answers 202 and stores nothing, `ignore` stores the event like any other",
    )
    respect_gpc: bool = Field(
        False, description="whether events with the header `Sec-GPC: 1` (Global Privacy Control) are dropped with 202"
    )
    respect_dnt: bool = Field(
        False, description="whether events with the header `DNT: 1` (Do Not Track) are dropped with 202"
    )


class Config(Section):
    """The complete file."""

    server: Server = Server()
    admin: Admin = Admin()
    storage: Storage = Storage()
    rate_limit: RateLimit = RateLimit()
    privacy: Privacy = Privacy()
    tracker: Tracker = Tracker()
    sites: dict[SiteId, SiteSettings] = Field(min_length=1)
