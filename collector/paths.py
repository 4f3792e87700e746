"""Paths of pages, in the form in which the setting `excluded_paths` is compared with an event's `page_path`.

Both are percent-decoded once, as UTF-8, because `/büro` and `/b%C3%BCro` are the same page. Invalid escapes (`%zz`,
`%4`) stay as they are. So do escapes that do not form a character (`%ff`, an incomplete sequence).
"""

import re

_ESCAPES = re.compile("(?:%[0-9A-Fa-f]{2})+")
_ESCAPE_LENGTH = 3


def decoded(path: str) -> str:
    """Percent-decode the path once, in linear time. `+` stays a plus."""
    return _ESCAPES.sub(_decoded_run, path) if "%" in path else path


def pieces(setting: str) -> tuple[str, ...]:
    """Split a setting at its stars, and decode the pieces. `%2A` is a literal star and does not split."""
    return tuple(decoded(piece) for piece in setting.split("*"))


def _decoded_run(match: re.Match[str]) -> str:
    run = match[0]
    text = bytes.fromhex(run.replace("%", "")).decode("utf-8", "surrogateescape")
    if not any(map(_is_bad_byte, text)):
        return text
    kept, at = [], 0  # `at` is a position in the run
    for char in text:
        end = at + _ESCAPE_LENGTH * (1 if _is_bad_byte(char) else len(char.encode()))
        kept.append(run[at:end] if _is_bad_byte(char) else char)
        at = end
    return "".join(kept)


def _is_bad_byte(char: str) -> bool:
    """Whether `surrogateescape` made it from a byte outside any character. No UTF-8 decodes to these code points."""
    return "\udc80" <= char <= "\udcff"
