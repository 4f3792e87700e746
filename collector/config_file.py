"""The configuration file: TOML, with environment variables that override single keys.

`load` reports every error at once. Each names the key and says what would be right.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from collector.config import Config, SiteSettings, site_id_like
from collector.environment import SECTIONS, Key, override

LARGEST_BYTES = 64 << 20  # largest file; 10,000 sites with a dozen exclusions each take 10 MB


class ConfigError(Exception):
    """The configuration cannot be used; `errors` has one line for each reason."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read `path` and the environment. Raises ConfigError with every error."""
    try:
        tree = tomllib.loads(_text(_content(path)))
    except OSError as exc:
        raise ConfigError([f"{path}: cannot be read: {exc.strerror}"]) from None
    except (ValueError, RecursionError) as exc:  # not UTF-8, not TOML, numbers too long or nesting too deep
        raise ConfigError([f"{path}: is not TOML: {exc}"]) from None
    origins, errors = override(tree, environ)
    config = None
    try:
        config = Config.model_validate(tree)
    except ValidationError as exc:
        errors += [_sentence(path, origins, error) for error in exc.errors(include_url=False)]
    if config is None or errors:
        raise ConfigError(errors)
    return config


def _content(path: Path) -> bytes:
    """The content of a file or a pipe. Raises OSError, ConfigError."""
    # O_NONBLOCK: opening a pipe without a writer would wait forever. The limit: a device could fill the memory.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        os.set_blocking(file.fileno(), True)
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ConfigError([f"{path}: is larger than {LARGEST_BYTES >> 20} MB, the limit for a configuration"])
    return data


def _text(data: bytes) -> str:
    """Decode UTF-8 and skip the byte order mark that editors on Windows write. Raises ValueError, also for UTF-16."""
    if b"\0" in data[:2] or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError("it is UTF-16; it should be saved as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ValueError(f"line {line} is not UTF-8") from None


def _sentence(path: Path, origins: dict[Key, str], error: ErrorDetails) -> str:
    """One line: the file or variable, the key, and what is wrong."""
    loc: Key = tuple(str(step) for step in error["loc"] if step != "[key]")
    # The variable that set the key itself, a key below it, or a key above it.
    named = (name for where, name in origins.items() if where[: len(loc)] == loc[: len(where)])
    key = ".".join(_shown(step)[1:-1] for step in loc)
    return f"{next(named, path)}: {key or 'the file'}: {_what_is_wrong(loc, error)}"


def _what_is_wrong(loc: Key, error: ErrorDetails) -> str:
    if loc[:1] == ("sites",) and loc[2:3] == ("keys",):  # the value may be a key, which must not get into a log
        return 'should be a list of "sha256:" and 64 lower-case hex digits each, as `collector key` prints them'
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(loc, error["input"])
        case "missing" if loc == ("sites",):
            return "missing; at least one site is needed, for example [sites.demo]"
        case "too_short" if loc == ("sites",):
            return "empty; at least one site is needed, for example [sites.demo]"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"should be a table; got {_got(error)}{_right_table(loc)}"
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
            return f"{text}{_as_written(error)}; got {_got(error)}"


def _unknown_key(loc: Key, value: Any) -> str:
    if len(loc) == len(("sites", "id", "key")) and isinstance(value, dict):
        name = ".".join(loc[1:])
        while step := next((key for key, inner in value.items() if isinstance(inner, dict)), None):
            name, value = f"{name}.{step}", value[step]
        return f'unknown key; a site id cannot contain dots: "{name[:80]}" should be [sites.{site_id_like(name)}]'
    known = _known_keys(loc[:-1])
    close = difflib.get_close_matches(loc[-1].lower(), known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    site = f"; a site is written [sites.{site_id_like(loc[0])}]" if len(loc) == 1 and isinstance(value, dict) else ""
    return f"unknown key; known keys are {', '.join(known)}{site}"


def _right_table(loc: Key) -> str:
    """Where the value belongs, if `sites` or one of its entries is not a table."""
    if loc == ("sites",):
        return "; a site is written [sites.demo]"
    if loc[:1] == ("sites",) and loc[-1] in SiteSettings.model_fields:
        return f"; {loc[-1]} is a site setting and belongs below a line such as [sites.demo]"
    return ""


def _as_written(error: ErrorDetails) -> str:
    """How to write a text that was meant as a list or a boolean, an easy mistake in an environment variable."""
    text = error["input"]
    if not isinstance(text, str):
        return ""
    if error["type"] == "tuple_type":
        words = (word.strip(" \"'") for word in text.strip("[] ").split(","))
        return f", written {_shown([word for word in words if word])}"
    if error["type"] == "bool_type" and text.lower() in ("true", "false"):
        return f", written {text.lower()}"
    return ""


def _got(error: ErrorDetails) -> str:
    """The value, on one line and cut at 80 characters."""
    return _shown(error["input"])[:80]


def _shown(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return "tables nested too deeply"


def _known_keys(loc: Key) -> list[str]:
    if not loc:
        return list(Config.model_fields)
    return list((SECTIONS | {"sites": SiteSettings})[loc[0]].model_fields)
