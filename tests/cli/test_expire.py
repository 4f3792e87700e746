"""`collector expire`, in this process."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collector.cli.main import main


@pytest.mark.parametrize("days", ["2", "2d"])
def test_days_are_a_number_with_or_without_d(tmp_path: Path, capsys: pytest.CaptureFixture[str], days: str) -> None:
    today = datetime.now(UTC).date()
    parts = [tmp_path / "data/events/site=demo" / f"date={today - timedelta(ago)}" / "1.parquet" for ago in (1, 4)]
    for part in parts:
        part.parent.mkdir(parents=True)
        part.touch()
    config = tmp_path / "collector.toml"
    config.write_text(f'[storage]\ndata_dir = "{tmp_path / "data"}"\n[sites.demo]\n')
    assert 0 == main(["expire", "--older-than", days, "--config", str(config)])
    assert "deleted 1 part\n" == capsys.readouterr().out
    assert [True, False] == [part.exists() for part in parts]
