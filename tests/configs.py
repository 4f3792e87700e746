"""Load configuration files that are given as text."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from collector.config import Config
from collector.config_file import ConfigError, load

SITE = "[sites.demo]\n"


def read(folder: Path, text: str | bytes = SITE, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration in a file with this text."""
    file = folder / "collector.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file, environ or {})


def errors_of(folder: Path, text: str | bytes = SITE, environ: Mapping[str, str] | None = None) -> list[str]:
    """Every error in a file with this text."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text, environ)
    assert "\n".join(caught.value.errors) == str(caught.value)
    return caught.value.errors
