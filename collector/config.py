"""Configuration: one TOML file, and environment variables that override single keys of it.

Each setting is declared once, here, with its default, its unit and its meaning; the README's table is
tested against these. `load` reports everything that is wrong at once.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from collector.addresses import Network, parse_network

ENV_PREFIX = "COLLECTOR__"
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")  # other letters are sent as punycode
_ORIGIN = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>{_HOST.pattern}|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{{1,5}}))?/?"
)
SITE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class ConfigError(Exception):
    """The configuration cannot be used; `errors` names every reason, one line each."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def _network(value: object) -> Network:
    return parse_network(value if isinstance(value, str) else "")


def _site_id(value: str) -> str:
    if not SITE_ID.fullmatch(value):
        raise ValueError("a site id should be 1 to 64 of A-Z a-z 0-9 _ - (it becomes a directory name)")
    return value


def _allowed_origin(value: str) -> str:
    """`null`, `*.host`, or an origin as browsers write it: lower case, default port left out.

    What no browser ever sends is an error here: it would refuse every event, and look right.
    """
    if value == "null":
        return value
    lower = value.lower()
    if lower.startswith("*.") and _HOST.fullmatch(lower[2:]):
        return lower
    match = _ORIGIN.fullmatch(lower)
    if match is None or int(match["port"] or 0) > 65535:
        raise ValueError('should be "https://host", "https://host:port", "*.host" or "null"')
    scheme, host, port = match["scheme"], match["host"], match["port"]
    if port is None or int(port) == {"http": 80, "https": 443}.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{int(port)}"


def _durability(value: str) -> str:
    if value != "memory":
        raise ValueError(f'should be "memory": "{value}" needs the journal, which this version does not have')
    return value


def _partition_by(value: tuple[str, ...]) -> tuple[str, ...]:
    if value not in (("site", "date"), ("date",)):
        raise ValueError('should be ["site", "date"] or ["date"]')
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or "\0" in str(value) or not str(value):
        raise ValueError("should be the path of a folder")
    return Path(value)


def _only(expected: int, why: str) -> AfterValidator:
    def check(value: int) -> int:
        if value != expected:
            raise ValueError(f"should be {expected}: {why}")
        return value

    return AfterValidator(check)


# Lists are tuples here, so that nobody changes a setting; `strict=False` at each lets TOML's lists pass as such.
NetworkText = Annotated[Network, PlainValidator(_network)]
OriginText = Annotated[str, AfterValidator(_allowed_origin)]
SiteId = Annotated[str, AfterValidator(_site_id)]
PathText = Annotated[Path, PlainValidator(_path)]


class Section(BaseModel):
    """A table of the file. Types are taken strictly: `port = "80"` is an error, not 80."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Server(Section):
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: Annotated[int, _only(1, "this version serves with one process")] = Field(
        1, description="processes that serve"
    )
    trusted_proxies: tuple[NetworkText, ...] = Field(
        (), strict=False, description="addresses and networks whose `X-Forwarded-For` is believed"
    )
    max_body_bytes: int = Field(65536, ge=1, le=16 * 2**20, description="largest body taken, in bytes")
    body_timeout_s: float = Field(10, gt=0, description="longest a body may take to arrive, in seconds")
    keepalive_timeout_s: float = Field(75, gt=0, description="longest a connection may idle, in seconds")
    shutdown_timeout_s: float = Field(
        15, gt=0, description="longest that draining waits for requests, and a failing flush is tried again"
    )


class Admin(Section):
    host: str = Field("127.0.0.1", min_length=1, description="address of the admin listener")
    port: int = Field(9090, ge=0, le=65535, description="port of the admin listener; 0 takes a free one")


class Storage(Section):
    data_dir: PathText = Field(Path("data"), description="where everything is kept")
    flush_interval_s: float = Field(
        60, gt=0, le=86_400, description="longest an event waits before it can be queried, in seconds"
    )
    segment_max_bytes: int = Field(
        64 * 2**20, ge=65536, le=2**30, description="buffered bytes at which a flush starts before its time"
    )
    journal_max_bytes: int = Field(
        4 * 2**30,
        ge=65536,
        description="unflushed bytes at which events are refused; with durability `memory` never more than 4 segments",
    )
    durability: Annotated[Literal["fsync", "write", "memory"], AfterValidator(_durability)] = Field(
        "memory", description="what an acknowledged event survives; this version has only `memory`: an orderly stop"
    )
    compression: Literal["zstd", "snappy", "gzip", "lz4", "none"] = Field("zstd", description="Parquet codec")
    min_free_bytes: int = Field(256 * 2**20, ge=0, description="free disk space below which events are refused")
    partition_by: Annotated[tuple[str, ...], AfterValidator(_partition_by)] = Field(
        ("site", "date"),
        strict=False,
        description='`["site", "date"]`, or `["date"]` for thousands of sites',
    )
    rejected_max_bytes: int = Field(
        256 * 2**20, ge=0, description="size of `rejected/`, oldest days dropped first; 0 keeps none"
    )
    retention_days: Annotated[int, _only(0, "this version drops no days")] = Field(
        0, ge=0, description="days that parts are kept; 0 keeps all"
    )

    @field_validator("journal_max_bytes")
    @classmethod
    def _holds_a_segment(cls, value: int, info: ValidationInfo) -> int:
        segment_max_bytes = info.data.get("segment_max_bytes", 0)  # missing where it is wrong itself
        if value < segment_max_bytes:
            raise ValueError(f"should be at least segment_max_bytes, {segment_max_bytes}")
        return value


class RateLimit(Section):
    requests_per_minute: int = Field(
        1200, ge=0, le=60_000_000, description="requests a client may make a minute; 0: no limit"
    )
    burst: int = Field(1200, ge=1, le=10_000_000, description="requests a client may make at once")
    ipv6_prefix: int = Field(64, ge=1, le=128, description="bits of an IPv6 address that make one client")


class Privacy(Section):
    client_ip: Literal["none", "truncate", "hash", "full"] = Field(
        "none",
        description="what is kept of the address: nothing, its /24 or /48, a hash keyed anew every day, or all",
    )


class SiteSettings(Section):
    tracking: bool = Field(True, description="whether events of this site are taken at all")
    excluded_ips: tuple[NetworkText, ...] = Field(
        (), strict=False, description="clients that are ignored: addresses and networks, v4 and v6"
    )
    excluded_paths: tuple[str, ...] = Field(
        (), strict=False, description="pages that are ignored: exact, or with `*` for any characters"
    )
    allowed_origins: tuple[OriginText, ...] = Field(
        (), strict=False, description="origins that may send, `*.host` for subdomains; empty: any"
    )
    allow_localhost: bool = Field(False, description="whether pages on localhost count")
    strict: bool = Field(False, description="answer 422 with every error, for a site being integrated")


class Config(Section):
    """The whole file."""

    server: Server = Server()
    admin: Admin = Admin()
    storage: Storage = Storage()
    rate_limit: RateLimit = RateLimit()
    privacy: Privacy = Privacy()
    sites: dict[SiteId, SiteSettings] = Field(min_length=1)


_SECTIONS: dict[str, type[BaseModel]] = {
    "server": Server,
    "admin": Admin,
    "storage": Storage,
    "rate_limit": RateLimit,
    "privacy": Privacy,
}


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read `path` and the environment. Raises ConfigError with everything that is wrong."""
    try:
        with path.open("rb") as file:
            tree = tomllib.load(file)
    except OSError as exc:
        raise ConfigError([f"{path}: cannot be read: {exc.strerror}"]) from None
    except (ValueError, RecursionError) as exc:  # not UTF-8, not TOML, numbers or nesting without end
        raise ConfigError([f"{path}: is not TOML: {exc}"]) from None
    origins, errors = _override(tree, environ)
    config = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as exc:
        errors += [_sentence(path, origins, error) for error in exc.errors(include_url=False)]
    if config is None or errors:
        raise ConfigError(errors)
    return config


def _override(tree: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[tuple[str, ...], str], list[str]]:
    """Put the variables into the tree; return which key came from which, and what names no key."""
    origins: dict[tuple[str, ...], str] = {}
    errors: list[str] = []
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        section, _, key = name.removeprefix(ENV_PREFIX).partition("__")
        section = section.lower()
        if section == "sites":
            site, _, key = key.rpartition("__")
            where: tuple[str, ...] = (section, site, key.lower())
            model: type[BaseModel] | None = SiteSettings
        else:
            where = (section, key.lower())
            model = _SECTIONS.get(section)
        if model is None or where[-1] not in model.model_fields or "" in where:
            errors.append(f"{name}: names no setting; it should be COLLECTOR__<SECTION>__<KEY>")
            continue
        table = tree
        for step in where[:-1]:
            table = table.setdefault(step, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict):  # else the file is wrong there, and says so itself
            table[where[-1]] = _typed(environ[name], model.model_fields[where[-1]].default)
        origins[where] = name
    return origins, errors


def _typed(text: str, default: object) -> object:
    """A variable is text. Where the setting is text it stays so; elsewhere it is read as TOML."""
    if isinstance(default, str | Path):
        return text
    try:
        match tomllib.loads(f"value = {text}"):
            case {"value": value, **others} if not others:
                return value
    except (ValueError, RecursionError):
        pass
    return text


def _sentence(path: Path, origins: dict[tuple[str, ...], str], error: ErrorDetails) -> str:
    """One line: where it is from, which key, what is wrong with it."""
    loc = tuple(str(step) for step in error["loc"] if step != "[key]")
    # The variable that set the key, something in it, or the only thing known of the table it is in.
    named = (name for where, name in origins.items() if where[: len(loc)] == loc[: len(where)])
    key = ".".join(_shown(step)[1:-1] for step in loc)
    return f"{next(named, path)}: {key or 'the file'}: {_what_is_wrong(loc, error)}"


def _what_is_wrong(loc: tuple[str, ...], error: ErrorDetails) -> str:
    match error["type"]:
        case "extra_forbidden":
            known = _known_keys(loc[:-1])
            close = difflib.get_close_matches(loc[-1], known, n=1)
            return "unknown key; " + (f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}")
        case "missing" if loc == ("sites",):
            return "missing; at least one site is needed, for example [sites.demo]"
        case "too_short" if loc == ("sites",):
            return "empty; at least one site is needed, for example [sites.demo]"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"should be a table; got {_got(error)}"
        case "value_error":
            text = str(error["ctx"]["error"])
            return text if isinstance(error["input"], dict) else f"{text}; got {_got(error)}"
        case _:
            text = (
                error["msg"]
                .replace("Input should", "should")
                .replace("valid tuple", "list")
                .replace("a valid integer", "an integer")
                .replace("valid ", "")
            )
            return f"{text}; got {_got(error)}"


def _got(error: ErrorDetails) -> str:
    """What stands in the file, on one line and no longer than it helps."""
    return _shown(error["input"])[:80]


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _known_keys(loc: tuple[str, ...]) -> list[str]:
    if not loc:
        return list(Config.model_fields)
    return list((_SECTIONS | {"sites": SiteSettings})[loc[0]].model_fields)
