"""What is running: version, commit and contract."""

from importlib.resources import files

from collector import VERSION
from collector.events import CONTRACT_HASH


def _commit() -> str:
    """As `make binary` wrote it down; in a clone there is no such file."""
    try:
        return (files("collector") / "commit").read_text().strip()
    except FileNotFoundError:
        return ""


COMMIT = _commit()
"""Such as `4b95093` or `4b95093-dirty`; empty where it is not known."""

BUILD = {"version": VERSION, "commit": COMMIT, "contract": CONTRACT_HASH}
"""As `/version` and the labels of `collector_build_info` say it."""

BUILD_LINE = f"collector {', '.join([VERSION, *([f'commit {COMMIT}'] if COMMIT else []), f'contract {CONTRACT_HASH}'])}"
"""As `collector --version` says it."""
