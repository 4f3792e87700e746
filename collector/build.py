"""The running version, commit and contract."""

from importlib.resources import files

from collector import VERSION
from collector.events import CONTRACT_HASH


def _commit() -> str:
    """The commit that `make binary` wrote to a file; a clone has no such file."""
    try:
        return (files("collector") / "commit").read_text().strip()
    except FileNotFoundError:
        return ""


COMMIT = _commit()
"""Such as `4b95093` or `4b95093-dirty`; empty if unknown."""

BUILD = {"version": VERSION, "commit": COMMIT, "contract": CONTRACT_HASH}
"""For `/version` and the labels of `collector_build_info`."""

BUILD_LINE = f"collector {', '.join([VERSION, *([f'commit {COMMIT}'] if COMMIT else []), f'contract {CONTRACT_HASH}'])}"
"""The output of `collector --version`."""
