"""The contract as code: bytes to a valid event, or to words that say what is wrong.

Compiled once, when this module is imported. fastjsonschema's own messages run to hundreds of characters and repeat
what was sent; ours name a field and a rule, and nothing of the client's.
"""

import math
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

# Digits and points as 0, both e as e, the plus; nothing else of a body.
_SHAPE = bytearray(256 * b" ")
_SHAPE[ord("0") : ord("9") + 1] = 10 * b"0"
for _letter, _stands in zip(b".eE+", b"0ee+", strict=True):
    _SHAPE[_letter] = _stands
_LONG_MANTISSA = 200 * b"0"

# An enum is spelled out when its values fit in a message of 200 characters.
LONGEST_LIST = 120


class InvalidEvent(Exception):
    """The body is not an event. `errors` holds the first rule it breaks, or all that were asked for."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__(str(errors[0]))
        self.errors = errors


def parse(body: bytes) -> dict[str, Any]:
    """The one JSON object that `body` holds. Raises InvalidEvent.

    The strings of its fields come back without lone surrogates: U+FFFD stands for each.
    """
    if body.startswith(UTF8_BOM):
        body = body[3:]
    try:
        # ujson decodes UTF-8 leniently, Python strictly; ASCII needs neither, and is most of what comes.
        event = ujson.loads(body if body.isascii() else body.decode())
    except UnicodeDecodeError:
        raise InvalidEvent(FieldError(None, "is not UTF-8")) from None
    except (ValueError, RecursionError):  # too deep a nesting is the one or the other, by ujson's version
        raise InvalidEvent(FieldError(None, "is not one JSON object")) from None
    if type(event) is not dict:
        raise InvalidEvent(FieldError(None, "is not one JSON object"))
    if b"\\u" in body:
        _replace_surrogates(event)
    return event


def check(event: dict[str, Any], body: bytes) -> None:
    """Raise InvalidEvent with the first rule that `event` breaks, which was read from `body`.

    `number` is still to be asked of the numbers in its known fields.
    """
    try:
        _validate(event)
    except JsonSchemaValueException as exc:
        raise InvalidEvent(_field_error(exc, event)) from None
    if not event.keys() <= _FIELD_NAMES and _may_be_out_of_range(body) and _unknown_out_of_range(event):
        raise InvalidEvent(_out_of_range(None))


def check_all(event: dict[str, Any]) -> None:
    """Raise InvalidEvent with every rule that `event` breaks, each once; dearer than `check`."""
    errors: list[FieldError] = []
    try:
        _validate_all(event)
    except JsonSchemaValuesException as exc:
        errors = [error for each in exc.errors for error in _each_error(each, event)]
    values = ((name, event.get(name)) for name in _NUMBERS)
    errors += [_out_of_range(name) for name, value in values if type(value) in (int, float) and _finite(value) is None]
    if _unknown_out_of_range(event):
        errors.append(_out_of_range(None))
    if errors:
        raise InvalidEvent(*dict.fromkeys(errors))


def number(field: str, value: int | float) -> float:
    """The nearest float64. Raises InvalidEvent for NaN, the infinities and what overflows.

    They are no JSON, yet ujson reads them, and the schema takes them for numbers.
    """
    nearest = _finite(value)
    if nearest is None:
        raise InvalidEvent(_out_of_range(field))
    return nearest


def is_finite(value: int | float) -> bool:
    """Whether a float64 holds it, or comes near."""
    return _finite(value) is not None


def _finite(value: Any) -> float | None:
    try:
        nearest = float(value)
    except OverflowError:
        return None
    return nearest if math.isfinite(nearest) else None


def _may_be_out_of_range(body: bytes) -> bool:
    """Whether a number in `body` could be NaN, infinite or beyond float64: if not, no walk through it is needed.

    It takes an exponent of three digits or a mantissa of 200. Seen for 64 KB in 0.2 ms; the walk takes 10.
    """
    shape = body.translate(_SHAPE)
    return b"e000" in shape or b"e+000" in shape or _LONG_MANTISSA in shape or b"NaN" in body or b"Infinity" in body


def _unknown_out_of_range(event: dict[str, Any]) -> bool:
    """Whether an unknown field holds a number that `number` would refuse, however deep."""
    waiting: list[Any] = [event[name] for name in event.keys() - _FIELD_NAMES]
    while waiting:  # no recursion: ujson lets 1,023 levels pass
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, int | float) and _finite(value) is None:
            return True
    return False


def _out_of_range(field: str | None) -> FieldError:
    return FieldError(field, "holds a number beyond the range of a float64")


def _replace_surrogates(event: dict[str, Any]) -> None:
    """Put U+FFFD for what UTF-8, and so Arrow, cannot hold: a browser that cuts a title makes such halves."""
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
    return FieldError(field, _rule_in_words(exc.rule, exc.rule_definition))


def _missing(event: dict[str, Any]) -> list[str]:
    return [name for name in CONTRACT["required"] if name not in event]


def _rule_in_words(rule: str | None, definition: Any) -> str:
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
