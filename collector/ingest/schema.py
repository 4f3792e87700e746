"""The contract as code: parses and validates an event, or says what is wrong with it.

The validators are compiled once, on import. fastjsonschema's own messages run to hundreds of characters and echo the
input. Our messages name only a field and a rule, and never contain client data.
"""

import json
import math
import re
from typing import Any

import fastjsonschema
import ujson
from fastjsonschema import JsonSchemaValueException, JsonSchemaValuesException

from collector.events import CONTRACT, FIELDS, FieldError, Kind

UTF8_BOM = b"\xef\xbb\xbf"

_validate = fastjsonschema.compile(CONTRACT)
_validate_all = fastjsonschema.compile(CONTRACT, fast_fail=False)
_FIELD_NAMES = frozenset(field.name for field in FIELDS)
_NUMBERS = tuple(field.name for field in FIELDS if field.kind is Kind.NUMBER)

# ujson reads NaN and infinities, which are not JSON. In text that ujson has parsed, these words outside strings are
# such values. The pattern is possessive: otherwise it takes 2 GB for a string of 16 MiB.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)

_LONG_INTEGER = re.compile(rb"[0-9]{4301}")

# A message lists an enum's values only if they are this short together, to stay under 200 characters.
LONGEST_LIST = 120


class InvalidEvent(Exception):
    """The body is not a valid event. `errors` holds the first broken rule, or every one if `check_all` raised it."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__(str(errors[0]))
        self.errors = errors


def parse(body: bytes) -> dict[str, Any]:
    """Parse the single JSON object in `body`. Raises InvalidEvent.

    In the object's own strings, U+FFFD replaces each lone surrogate.
    """
    if body.startswith(UTF8_BOM):
        body = body[3:]
    try:
        # ujson decodes UTF-8 leniently, so Python decodes it strictly. Most bodies are ASCII and skip this step.
        event = ujson.loads(body if body.isascii() else body.decode())
    except UnicodeDecodeError:
        raise InvalidEvent(FieldError(None, "is not UTF-8")) from None
    except (ValueError, RecursionError):  # either can mean too deep nesting, depending on ujson's version
        event = _with_long_integers(body)
    if type(event) is not dict:
        raise InvalidEvent(FieldError(None, "is not one JSON object"))
    if b"\\u" in body:
        _replace_surrogates(event)
    return event


def _with_long_integers(body: bytes) -> Any:
    """Parse JSON that ujson refuses only because Python makes no integer of more than 4,300 digits. Else None."""
    if _LONG_INTEGER.search(body) is None or b"\0" in body:  # unlike ujson, json accepts NUL, and UTF-16 in bytes
        return None
    try:
        return json.loads(body.decode(), strict=False, parse_int=float)
    except (ValueError, RecursionError):
        return None


def check(event: dict[str, Any], body: bytes) -> None:
    """Raise InvalidEvent with the first rule that `event` breaks. `body` is the text it was parsed from.

    Does not check the range of numbers in known fields; call `number` for those.
    """
    try:
        _validate(event)
    except JsonSchemaValueException as exc:
        raise InvalidEvent(_field_error(exc, event)) from None
    if _has_stray_nan(event, body):
        raise InvalidEvent(_out_of_range(None))


def check_all(event: dict[str, Any], body: bytes) -> None:
    """Raise InvalidEvent with every rule that `event` breaks, each once. Slower than `check`."""
    errors: list[FieldError] = []
    try:
        _validate_all(event)
    except JsonSchemaValuesException as exc:
        errors = [error for each in exc.errors for error in _each_error(each, event)]
    values = ((name, event.get(name)) for name in _NUMBERS)
    errors += [_out_of_range(name) for name, value in values if type(value) in (int, float) and _finite(value) is None]
    if _has_stray_nan(event, body):
        errors.append(_out_of_range(None))
    if errors:
        raise InvalidEvent(*dict.fromkeys(errors))


def number(field: str, value: int | float) -> float:
    """Return the nearest float64. Raises InvalidEvent for NaN, infinities and overflow.

    JSON has no NaN or infinity, but ujson parses them, and the schema accepts them as numbers.
    """
    nearest = _finite(value)
    if nearest is None:
        raise InvalidEvent(_out_of_range(field))
    return nearest


def is_finite(value: int | float) -> bool:
    """Whether the value is within the range of a float64."""
    return _finite(value) is not None


def _finite(value: Any) -> float | None:
    try:
        nearest = float(value)
    except OverflowError:
        return None
    return nearest if math.isfinite(nearest) else None


def _has_stray_nan(event: dict[str, Any], body: bytes) -> bool:
    """Whether `body` has NaN or an infinity that is the value of no known field. Those of known fields come first."""
    if b"NaN" not in body and b"Infinity" not in body:
        return False
    rest = _STRING.sub(b"", body)
    return (b"NaN" in rest or b"Infinity" in rest) and not any(
        type(event.get(name)) is float and not math.isfinite(event[name]) for name in _FIELD_NAMES
    )


def _out_of_range(field: str | None) -> FieldError:
    return FieldError(field, "holds a number beyond the range of a float64")


def _replace_surrogates(event: dict[str, Any]) -> None:
    """Replace lone surrogates, which UTF-8 and so Arrow cannot hold. Browsers create them by cutting titles short."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isascii():
            event[name] = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _each_error(exc: JsonSchemaValueException, event: dict[str, Any]) -> list[FieldError]:
    if exc.rule == "required":
        return [FieldError(name, "is required") for name in _missing(event)]
    return [_field_error(exc, event)]


def _field_error(exc: JsonSchemaValueException, event: dict[str, Any]) -> FieldError:
    if exc.rule == "required":
        first, *others = _missing(event)
        also = f" (missing too: {', '.join(others)})" if others else ""
        return FieldError(first, f"is required{also}")
    field = exc.path[1] if len(exc.path) > 1 else None
    return FieldError(field, _describe(exc.rule, exc.rule_definition))


def _missing(event: dict[str, Any]) -> list[str]:
    return [name for name in CONTRACT["required"] if name not in event]


def _describe(rule: str | None, definition: Any) -> str:
    match rule:
        case "type":
            types = [definition] if isinstance(definition, str) else definition
            return "must be " + " or ".join(name if name == "null" else f"a {name}" for name in types)
        case "enum":
            values = ", ".join("null" if value is None else str(value) for value in definition)
            if len(values) <= LONGEST_LIST:
                return f"must be one of {values}"
            return f"must be one of the {len(definition)} values that the contract lists"
        case "minLength":
            return f"must have at least {definition} characters"
        case "maxLength":
            return f"must have at most {definition} characters"
        case _:
            return f"breaks the rule {rule}"
