"""Environment variables that override settings: `COLLECTOR__<SECTION>__<KEY>`, `COLLECTOR__SITES__<id>__<KEY>`.

Section and key may be in any case. A site id is case-sensitive: `DEMO` and `demo` are two sites. Using one where the
file has the other is an error, because it would silently create a second site.

pydantic-settings (2.16.3) is not used. It folds the case of site ids or else wants sections in lower case, cuts ids at
`__`, ignores unknown sections, stops at the first list that is not JSON, and reads "yes" as true. With checks around it
this module was 13 lines longer, and each process needed 18 ms and 3.4 MB more.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from collector.config import Admin, Privacy, RateLimit, Server, SiteSettings, Storage, Tracker

ENV_PREFIX = "COLLECTOR__"

SECTIONS: dict[str, type[BaseModel]] = {
    "server": Server,
    "admin": Admin,
    "storage": Storage,
    "rate_limit": RateLimit,
    "privacy": Privacy,
    "tracker": Tracker,
}

Key = tuple[str, ...]
"""The path of a setting: (section, key) or ("sites", site id, key)."""


def override(tree: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[Key, str], list[str]]:
    """Put the variables into the file's tree. Return which variable set each key, and the errors of the others."""
    origins: dict[Key, str] = {}
    errors: list[str] = []
    sites = tree.get("sites")
    ids = dict.fromkeys(sites, "the file") if isinstance(sites, dict) else {}
    for name in sorted(name for name in environ if name.upper().startswith(ENV_PREFIX)):
        key, text = _key(name), environ[name]
        wrong = _wrong_name(name, key) or _wrong_site(key, ids) or _wrong_text(key, text)
        if wrong is None and key in origins:
            wrong = f"sets the same key as {origins[key]}; remove one of them"
        if wrong is not None:
            errors.append(f"{name}: {wrong}")
            continue
        if len(key) == len(("sites", "id", "key")):
            ids.setdefault(key[1], name)
        table = tree
        for step in key[:-1]:
            table = table.setdefault(step, {}) if isinstance(table, dict) else {}
        if isinstance(table, dict):  # else the file has an error there, which is reported on its own
            table[key[-1]] = _typed(text, _default(key))
        origins[key] = name
    return origins, errors


def _key(name: str) -> Key:
    section, _, key = name[len(ENV_PREFIX) :].partition("__")
    if section.lower() == "sites":
        site_id, _, key = key.rpartition("__")
        return "sites", site_id, key.lower()
    return section.lower(), key.lower()


def _model(key: Key) -> type[BaseModel] | None:
    return SiteSettings if key[0] == "sites" else SECTIONS.get(key[0])


def _default(key: Key) -> object:
    model = _model(key)
    return None if model is None else model.model_fields[key[-1]].default


def _wrong_name(name: str, key: Key) -> str | None:
    if not name.startswith(ENV_PREFIX):
        return f"should begin with {ENV_PREFIX}, in capitals"
    model = _model(key)
    if model is not None and key[-1] in model.model_fields and "" not in key:
        return None
    form = f"{ENV_PREFIX}<SECTION>__<KEY>" + f", here {ENV_PREFIX}SITES__<id>__<KEY>" * (key[0] == "sites")
    meant = difflib.get_close_matches(name, _names(name), n=1, cutoff=0.9)
    return f"names no setting; it should be {form}" + "".join(f"; did you mean {other}?" for other in meant)


def _names(name: str) -> Iterator[str]:
    """Every valid variable name; for sites, with the id that `name` has."""
    for section, model in SECTIONS.items():
        yield from (f"{ENV_PREFIX}{section}__{key}".upper() for key in model.model_fields)
    site_id = name[len(ENV_PREFIX) :].partition("__")[2].rpartition("__")[0]
    if site_id:
        yield from (f"{ENV_PREFIX}SITES__{site_id}__{key.upper()}" for key in SiteSettings.model_fields)


def _wrong_site(key: Key, ids: Mapping[str, str]) -> str | None:
    """An error if the site is new and its id is easily confused with one in `ids`, which maps ids to their source."""
    if key[0] != "sites" or key[1] in ids:
        return None
    for known, named_by in ids.items():
        if _alike(known) == _alike(key[1]):
            right = f"{ENV_PREFIX}SITES__{known}__{key[2].upper()}"
            return (
                f'names the site "{key[1]}", but {named_by} has "{known}" (case and hyphens matter); use {right}, '
                f"or add [sites.{key[1]}] to the file"
            )
    return None


def _alike(site_id: str) -> str:
    """The same text for ids that are easily confused: shell variables have no hyphens and are often in capitals."""
    return site_id.lower().replace("-", "_")


def _wrong_text(key: Key, text: str) -> str | None:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if quoted and isinstance(_default(key), str | Path):
        return f"{'.'.join(key)}: should be written without quotes; got {text}"  # Docker keeps them in an --env-file
    return None


def _typed(text: str, default: object) -> object:
    """The value of a variable. It stays text if the setting is text, and is read as TOML otherwise."""
    if isinstance(default, str | Path):
        return text
    try:
        match tomllib.loads(f"value = {text}"):
            case {"value": value, **others} if not others:
                return value
    except (ValueError, RecursionError):
        pass
    return text
