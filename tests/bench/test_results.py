"""What a result says about the machine and the collector."""

import json
from pathlib import Path

from bench.results import file_system, save
from bench.subject import Setup


def test_file_system_has_its_name_in_the_mounts(tmp_path: Path) -> None:
    """`stat -f` calls ext4 "ext2/ext3", and overlay "overlayfs"."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    assert file_system(tmp_path) in {mount.split()[2] for mount in mounts}


def test_result_says_what_was_measured(tmp_path: Path) -> None:
    """`micro` never runs the binary, and each side of `versus` has an entry of its own."""
    setup = Setup(binary=Path("/bin/echo"))
    found = {}
    for scenario in ("peak", "micro", "versus"):
        save(tmp_path / "result", scenario, "python -m bench", [], setup, None)
        about = json.loads((tmp_path / "result").read_text())
        found[scenario] = (about.get("collector", {}).get("runs"), bool(about.get("python")))
    assert {"peak": ("the binary", False), "micro": ("python -m collector", True), "versus": (None, False)} == found
