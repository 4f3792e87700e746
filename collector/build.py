"""The running version, commit and contract, and whether its hot modules are compiled."""

from importlib.resources import files

from collector import VERSION, events
from collector.events import CONTRACT_HASH


def _commit() -> str:
    """The commit that `make binary` wrote to a file; a clone has no such file."""
    try:
        return (files("collector") / "commit").read_text().strip()
    except FileNotFoundError:
        return ""


COMMIT = _commit()
"""Such as `4b95093` or `4b95093-dirty`; empty if unknown."""

CODE = "interpreted" if events.__file__.endswith((".py", ".pyc")) else "compiled"
"""Whether mypyc has compiled the hot modules, of which `events` is one. setup.py lists them."""

BUILD = {"version": VERSION, "commit": COMMIT, "contract": CONTRACT_HASH, "code": CODE}
"""For `/version` and the labels of `collector_build_info`."""

_FACTS = (VERSION, f"commit {COMMIT}" if COMMIT else "", f"contract {CONTRACT_HASH}", CODE)
BUILD_LINE = f"collector {', '.join(filter(None, _FACTS))}"
"""The output of `collector --version`."""
