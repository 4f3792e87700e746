"""Systems other than Linux: one worker keeps every promise, and what needs Linux is refused with a message."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import elsewhere
from tests.system.process import configure, environment, serving

ROOT = Path(__file__).parent.parent.parent
BASIC = (
    "test_start_publishes_the_events_of_a_killed_process_and_new_ones",
    "test_recover_publishes_without_serving",
    "test_inspect_distinguishes_a_torn_tail_from_damage",
    "test_retention_days_drops_old_days_while_serving",
    "test_sigterm_under_load_loses_no_acknowledged_event",
    "test_reload_changes_sites_and_limits_at_once",
    "test_events_are_refused_and_nothing_is_created_where_the_data_dir_was and 1]",
)
COMMAND = (sys.executable, elsewhere.__file__)


def test_one_worker_keeps_its_promises_without_linux(tmp_path: Path) -> None:
    """Runs the basic tests with the collector as it is on another system."""
    command = tmp_path / "collector"
    command.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    command.chmod(0o755)
    selected = " or ".join(f"({name})" for name in BASIC)
    files = [f"tests/system/test_{name}.py" for name in ("recover", "serve", "displaced")]
    options = ["-vv", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'theirs'}", "-k", selected]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=ROOT,
        env=os.environ | {"COLLECTOR_COMMAND": str(command)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert 0 == done.returncode, done.stdout
    assert [] == [name for name in BASIC if f"{name.partition(' ')[0]}" not in done.stdout], "every test ran"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("serve",), "server.workers = 2: several workers need Linux: they share memory that this system"),
        (("doctor",), "doctor: needs Linux"),
        (("install",), "install: needs Linux"),
    ],
    ids=["several workers", "doctor", "install"],
)
def test_features_that_need_linux_are_refused_in_one_line(tmp_path: Path, arguments: tuple[str, ...], why: str) -> None:
    configure(tmp_path, server={"workers": 2})
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert (1, f"collector: {why}") == (done.returncode, done.stderr[: len(f"collector: {why}")])
    assert 1 == len(done.stderr.splitlines())


def test_auto_is_one_worker_without_linux(tmp_path: Path) -> None:
    with serving(tmp_path, command=COMMAND, server={"workers": "auto"}) as process:
        assert 201 == process.post().status
        assert 1 == process.metrics().value("collector_workers", state="configured")
        assert 0 == process.stop()
