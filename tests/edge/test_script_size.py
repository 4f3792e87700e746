"""The budget of the tracker's script: what a page has to load."""

from importlib.resources import files

import pytest

FOLDER = files("collector") / "tracker"


@pytest.mark.parametrize(("suffix", "most_bytes"), [(".br", 8_192), (".gz", 9_216)])
def test_script_is_within_its_budget(suffix: str, most_bytes: int) -> None:
    assert len((FOLDER / f"t.js{suffix}").read_bytes()) <= most_bytes
