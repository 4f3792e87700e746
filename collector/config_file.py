"""The configuration file: TOML, and environment variables that override single keys of it.

`load` reports everything that is wrong at once, in sentences that name the key and say what would be right.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from collector.config import Admin, Config, Privacy, RateLimit, Server, SiteSettings, Storage

ENV_PREFIX = "COLLECTOR__"

_SECTIONS: dict[str, type[BaseModel]] = {
    "server": Server,
    "admin": Admin,
    "storage": Storage,
    "rate_limit": RateLimit,
    "privacy": Privacy,
}


class ConfigError(Exception):
    """The configuration cannot be used; `errors` names every reason, one line each."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


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
