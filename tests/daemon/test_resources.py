"""The resources a process acquires before it serves."""

import fcntl
from errno import ENOLCK
from pathlib import Path

import pytest

from collector.daemon.resources import StartError, owned


def test_second_owner_is_refused_until_the_first_has_left(tmp_path: Path) -> None:
    with owned(tmp_path), pytest.raises(StartError, match="another collector is using it"), owned(tmp_path):
        pass
    with owned(tmp_path):
        pass


def test_file_system_without_locks_has_its_own_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StartError, match="cannot be locked: No locks available"), owned(tmp_path):
        pass
