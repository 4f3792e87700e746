"""Negotiation: which encoding of a file a client takes, and whether it has the file already (RFC 9110, 12.5.3, 13.1.2).

Both functions read headers that may be lists, and skip what they cannot read.
"""

import re
from collections.abc import Sequence

IDENTITY = "identity"

_CODING = re.compile(
    r"[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*(?:;[ \t]*q=(?P<weight>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?",
    re.IGNORECASE,
)
_TAG = re.compile(r'"[!#-~]*"')  # without the `W/` of a weak one, which makes no difference here
_OLD_NAMES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3


def best_encoding(accepted: str | None, offered: Sequence[str]) -> str:
    """The encoding of `offered`, best first, to answer an `Accept-Encoding` with; identity if it accepts no other.

    Identity is the answer too where a client refuses it: a file that it may not want is better than none.
    """
    if accepted is None:  # any encoding would be right, but such a client may know none
        return IDENTITY
    weights: dict[str, float] = {}
    for element in accepted.split(","):
        coding = _CODING.fullmatch(element)
        if coding is not None:
            name = coding["name"].lower()
            weights.setdefault(_OLD_NAMES.get(name, name), float(coding["weight"] or 1))
    others = weights.get("*", 0.0)
    # Without a weight of its own, identity is accepted, but less than any encoding that is named.
    best, most = IDENTITY, weights.get(IDENTITY, 0.0)
    for encoding in reversed(offered):
        weight = weights.get(encoding, others)
        if weight > 0 and weight >= most:
            best, most = encoding, weight
    return best


def has_already(if_none_match: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names this entity tag, compared weakly, or is `*`."""
    return if_none_match is not None and (if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match))
