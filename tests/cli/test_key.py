"""`collector key`: the key, and the line for the configuration."""

import json

from collector.sender_keys import fingerprint
from tests.cli.in_process import Capture, run


def test_key_prints_the_key_and_its_fingerprint_for_the_configuration(capsys: Capture) -> None:
    """Only they are on stdout. The second line is a string in TOML as in JSON."""
    assert 0 == run("key")
    out, err = capsys.readouterr()
    key, quoted = out.splitlines()
    assert fingerprint(key) == json.loads(quoted)
    assert err.startswith("Line 1 is the key. ")
    assert key not in err


def test_every_key_is_new(capsys: Capture) -> None:
    assert 0 == run("key") == run("key")
    assert 4 == len(set(capsys.readouterr().out.splitlines()))
