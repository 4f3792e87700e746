"""The collectors of the crash tests run the form that the run is about (see tests/edge/test_compiled.py)."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.crash.rounds import victim, victim_serving
from tests.system.process import environment


@pytest.mark.parametrize("without", ["none", "cut"])
def test_victim_has_the_form_that_this_run_is_about(tmp_path: Path, without: str) -> None:
    """Victims with all safeguards and victims without one are started in different ways."""
    form = "compiled" if os.environ.get("COMPILED") == "1" else "interpreted"
    with victim_serving(tmp_path, without) as process:
        assert form == json.loads(process.ask("/version")[1])["code"]


def test_victim_without_a_safeguard_does_not_start_in_the_other_form(tmp_path: Path) -> None:
    """Whatever it is asked to do."""
    is_compiled = os.environ.get("COMPILED") == "1"
    environ = environment() | {"COMPILED": "1"}
    done = subprocess.run((*victim("cut"), "--version"), env=environ, cwd=tmp_path, capture_output=True, check=False)
    assert is_compiled is (done.returncode == 0)
    assert is_compiled is (b"COMPILED=1" not in done.stderr)
