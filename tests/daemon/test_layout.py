"""A `partition_by` that differs from the layout on disk: the message, and the commands that give it."""

import os
from pathlib import Path
from typing import Any

import pytest

from collector.cli.main import main
from collector.config import Storage
from collector.config_file import ConfigError
from collector.daemon.layout import check_layout
from tests.journal.test_layout import DAY, ID, put
from tests.system.process import configure

BY_SITE, BY_DATE = ("site", "date"), ("date",)
PART = {BY_SITE: f"events/site=demo/{DAY}/{ID}.parquet", BY_DATE: f"events/{DAY}/{ID}.parquet"}


@pytest.mark.parametrize(
    ("setting", "kept", "message"),
    [
        (
            BY_DATE,
            [BY_SITE],
            'is ["date"], but DATA has parts in events/ laid out by ["site", "date"]; readers need a single layout; '
            'set it back to ["site", "date"], or stop the collector and move events/ aside',
        ),
        (
            BY_SITE,
            [BY_DATE],
            'is ["site", "date"], but DATA has parts in events/ laid out by ["date"]; readers need a single layout; '
            'set it back to ["date"], or stop the collector and move events/ aside',
        ),
        (
            BY_SITE,
            [BY_DATE, BY_SITE],
            'is ["site", "date"], but DATA has parts in events/ laid out by ["date"]; readers need a single layout; '
            "stop the collector and move the parts of one layout aside: events/date=* or events/site=*",
        ),
        (BY_SITE, [BY_SITE], None),
        (BY_DATE, [BY_DATE], None),
        (BY_DATE, [], None),
    ],
)
def test_one_line_says_what_is_wrong_and_what_to_do(
    tmp_path: Path, setting: tuple[str, ...], kept: list[tuple[str, ...]], message: str | None
) -> None:
    for layout in kept:
        put(tmp_path / PART[layout])
    storage, file = Storage(data_dir=tmp_path, partition_by=setting), Path("collector.toml")
    if message is None:
        check_layout(file, storage)
        return
    with pytest.raises(ConfigError) as caught:
        check_layout(file, storage)
    assert [f"{file}: storage.partition_by: {message.replace('DATA', str(tmp_path))}"] == caught.value.errors


def test_environment_variable_that_sets_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / PART[BY_SITE])
    monkeypatch.setenv("COLLECTOR__STORAGE__PARTITION_BY", '["date"]')
    with pytest.raises(ConfigError, match=r"^COLLECTOR__STORAGE__PARTITION_BY: storage\.partition_by: is "):
        check_layout(Path("collector.toml"), Storage(data_dir=tmp_path, partition_by=BY_DATE))


@pytest.mark.parametrize("command", [["check-config"], ["doctor", "--config"]])
def test_commands_refuse_another_layout_and_touch_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    put(tmp_path / "data" / PART[BY_SITE])
    file = tmp_path / "collector.toml"
    file.write_text(f'[storage]\ndata_dir = "{tmp_path}/data"\npartition_by = ["date"]\n[sites.demo]')
    before = sorted(tmp_path.rglob("*"))
    assert 2 == main([*command, str(file)])
    out, err = capsys.readouterr()
    assert ("", 1) == (out, len(err.splitlines()))
    assert err.startswith(f'collector: {file}: storage.partition_by: is ["date"], but ')
    assert before == sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize("unseen", [".", "events", "journal"])
def test_check_config_names_a_folder_that_it_may_not_list(
    tmp_path: Path, unseen: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when another user than the collector's runs it: it cannot notice a changed layout then."""
    file = configure(tmp_path)
    (tmp_path / "data" / "events").mkdir(parents=True)
    (tmp_path / "data" / "journal").mkdir()
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if Path(folder) == tmp_path / "data" / unseen:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # permissions do not stop root
    assert 0 == main(["check-config", str(file)])
    assert f"{tmp_path / 'data' / unseen}: cannot be read" in capsys.readouterr().err
