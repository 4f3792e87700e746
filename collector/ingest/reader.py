"""The reader: one pass over an event that is plainly right, from its fields to the values of its columns.

It is compiled from the contract, as fastjsonschema's validator is, and asks the same of each field; only it keeps what
it looks at. It says yes or nothing: whatever it does not take (unknown fields included) goes to the validator,
which has the words for what is wrong. `python -m bench micro` measures both.
"""

from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any

from collector.events import CONTRACT, FIELDS, Column, Kind, Row
from collector.ingest.enrich import event_time_us

_TYPES = {Kind.STRING: "str", Kind.TIMESTAMP: "str", Kind.BOOLEAN: "bool"}
_EXACT = 2**53  # every integer up to here is a float64; larger ones take the way that rounds them
_KNOWN_RULES = {"type", "enum", "minLength", "maxLength", "x-column", "description"}


def _compiled() -> Callable[[dict[str, Any], int], Row | None]:
    rules = {field.name: CONTRACT["properties"][field.name] for field in FIELDS}
    for name, rule in rules.items():
        # Whoever adds another kind of rule to the contract must teach it to this module as well.
        assert rule.keys() <= _KNOWN_RULES, f"{name}: {rule.keys() - _KNOWN_RULES}"
    lines = [
        "def read(event, received_us):",
        # All fields in the contract's order, null where the event has none: 1 us less than asking it for each.
        "    fields = nothing | event",
        f"    if len(fields) != {len(FIELDS)}: return None",
        f"    {', '.join(f'v{index}' for index in range(len(FIELDS)))} = fields.values()",
        "    total = 0.0",
        *(line for index, field in enumerate(FIELDS) for line in _lines(index, field, rules[field.name])),
        # One infinity or NaN makes the sum one; finite numbers whose sum is none are left to the validator.
        "    if not isfinite(total): return None",
        f"    return [{', '.join(f'v{index}' for index in range(len(FIELDS)))}, raw]",
    ]
    known: dict[str, Any] = {"nothing": dict.fromkeys(rules), "isfinite": isfinite, "event_time_us": event_time_us}
    known |= {f"enum{index}": frozenset(rule.get("enum", ())) for index, rule in enumerate(rules.values())}
    exec("\n".join(lines), known)
    read: Callable[[dict[str, Any], int], Row | None] = known["read"]
    return read


def _lines(index: int, field: Column, rule: dict[str, Any]) -> Iterator[str]:
    """The code that reads one field into `v<index>`."""
    value, name = f"v{index}", repr(field.name)
    yield f"    if {value} is not None:"
    if field.kind is Kind.NUMBER:
        yield f"        if type({value}) is not float:"
        yield f"            if type({value}) is not int or not -{_EXACT} <= {value} <= {_EXACT}: return None"
        yield f"            {value} = float({value})"
        yield f"        total += {value}"
    else:
        refused = [f"type({value}) is not {_TYPES[field.kind]}"]
        refused += [f"{value} not in enum{index}"] if "enum" in rule else []
        refused += [f"len({value}) < {rule['minLength']}"] if "minLength" in rule else []
        refused += [f"len({value}) > {rule['maxLength']}"] if "maxLength" in rule else []
        yield f"        if {' or '.join(refused)}: return None"
    if field.name in CONTRACT["required"]:
        yield "    else: return None"
    elif "null" not in rule["type"]:
        yield f"    elif {name} in event: return None"
    if field.kind is Kind.TIMESTAMP:
        yield f"    raw, {value} = {value}, event_time_us({value}, received_us)"
        yield f"    if {value} is not None: raw = None"


read = _compiled()
"""The values of an event that is plainly right, as `to_values` gives them; None: ask the validator."""
