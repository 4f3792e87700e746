"""Paths of pages: what is compared of them, in the setting `excluded_paths` and in an event's `page_path`.

Both are percent-decoded once, as UTF-8, because pages send `/büro` and `/b%C3%BCro` for the same page. What is no
escape (`%zz`, `%4`) stays as it is; so does an escape that is no part of a character (`%ff`, a sequence that is cut).
"""

import re

_ESCAPES = re.compile("(?:%[0-9A-Fa-f]{2})+")
_ESCAPE_LENGTH = 3


def decoded(path: str) -> str:
    """The path percent-decoded once; in time linear in its length. `+` is a plus."""
    return _ESCAPES.sub(_decoded_run, path) if "%" in path else path


def pieces(setting: str) -> tuple[str, ...]:
    """What stands between the stars of a setting, decoded; `%2A` is a star to be found, and none that parts."""
    return tuple(decoded(piece) for piece in setting.split("*"))


def _decoded_run(match: re.Match[str]) -> str:
    run = match[0]
    text = bytes.fromhex(run.replace("%", "")).decode("utf-8", "surrogateescape")
    if not any(map(_is_bad_byte, text)):
        return text
    kept, at = [], 0  # in the run
    for char in text:
        end = at + _ESCAPE_LENGTH * (1 if _is_bad_byte(char) else len(char.encode()))
        kept.append(run[at:end] if _is_bad_byte(char) else char)
        at = end
    return "".join(kept)


def _is_bad_byte(char: str) -> bool:
    """Whether `surrogateescape` made it of a byte that is no part of a character; no character decodes to these."""
    return "\udc80" <= char <= "\udcff"
