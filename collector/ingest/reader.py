"""The reader: checks a common, clearly valid event and extracts its column values in a single pass.

Like fastjsonschema's validator, the reader is compiled from the contract and applies the same rules; it also keeps the
values. It never reports an error. If it declines an event (for instance, because of an unknown field), the validator
decides and words the error. `python -m bench micro` measures both.
"""

from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any

from collector.events import CONTRACT, FIELDS, Column, Kind, Row
from collector.ingest.enrich import event_time_us

_TYPES = {Kind.STRING: "str", Kind.TIMESTAMP: "str", Kind.BOOLEAN: "bool"}
_EXACT = 2**53  # every integer up to here is exact as a float64; larger ones are left to code that rounds them
_KNOWN_RULES = {"type", "enum", "minLength", "maxLength", "x-column", "description"}


def _compiled() -> Callable[[dict[str, Any], int], Row | None]:
    rules = {field.name: CONTRACT["properties"][field.name] for field in FIELDS}
    for name, rule in rules.items():
        # If the contract gets another kind of rule, add it to this module too.
        assert rule.keys() <= _KNOWN_RULES, f"{name}: {rule.keys() - _KNOWN_RULES}"
    lines = [
        "def read(event, received_us):",
        # All fields in the contract's order, with None for missing ones. This saves 1 us over a lookup for each field.
        "    fields = nothing | event",
        f"    if len(fields) != {len(FIELDS)}: return None",
        f"    {', '.join(f'v{index}' for index in range(len(FIELDS)))} = fields.values()",
        "    total = 0.0",
        *(line for index, field in enumerate(FIELDS) for line in _lines(index, field, rules[field.name])),
        # Any infinity or NaN makes the sum non-finite. If finite numbers overflow the sum, the validator decides.
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
"""Returns the values of a clearly valid event, as `to_values` does; None means that the validator must decide."""
