"""What a result says about the machine."""

from pathlib import Path

from bench.results import file_system


def test_file_system_has_its_name_in_the_mounts(tmp_path: Path) -> None:
    """`stat -f` calls ext4 "ext2/ext3", and overlay "overlayfs"."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    assert file_system(tmp_path) in {mount.split()[2] for mount in mounts}
