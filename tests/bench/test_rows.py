"""A run has a result only if there are as many rows as 201s."""

import shutil
from pathlib import Path

import pytest

import bench.sustained
from bench.peak import Shape
from bench.server import NoResult
from bench.subject import Collector, Setup, check_rows, count_rows, parse_setting
from bench.wrk import parse_output
from tests.support import config, event, running

SHORT = Shape(seconds=0.5, connections=4, requests=200)


async def test_missing_or_extra_event_is_no_result(tmp_path: Path) -> None:
    async with running(config(tmp_path)) as collector:
        for _ in range(3):
            assert 201 == (await collector.post(event())).status
        await collector.flush()
    check_rows(3, count_rows(tmp_path))
    for acknowledged in (2, 4):
        with pytest.raises(NoResult, match=rf"{acknowledged} events .* but 3 are in the parts"):
            check_rows(acknowledged, count_rows(tmp_path))


def test_run_counts_every_event_of_a_real_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.sustained, "WARM_UP_S", 0.1)
    run = bench.sustained.paced(Setup(sites=3), SHORT, 100)
    assert (50, 0, 0, 0) == (run["events"], run["refused"], run["failed"], run["unsent"])
    assert 3 == run["parts"]
    assert 0 < run["cpu_us_per_event"]


def test_run_that_loses_its_parts_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(collector: Collector) -> float:
        shutil.rmtree(collector.data_dir / "events")
        return 0.0

    monkeypatch.setattr(bench.sustained, "WARM_UP_S", 0.1)
    monkeypatch.setattr(Collector, "recover", lose)
    with pytest.raises(NoResult, match="but 0 are in the parts"):
        bench.sustained.paced(Setup(), SHORT, 100)


def test_run_with_invalid_settings_is_no_result() -> None:
    with pytest.raises(NoResult, match="durability"):
        bench.sustained.paced(Setup(settings={"storage": {"durability": "hope"}}), SHORT, 100)


WRK = (
    'RESULT {{"sent": {}, "answered": {}, "not_2xx": 1, "failed": {}, '
    '"p50_ms": 1, "p90_ms": 2, "p99_ms": 3, "max_ms": 4}}'
)


def test_wrk_with_every_response_is_a_load() -> None:
    load = parse_output("Running 5s test\n" + WRK.format(11, 11, 0), seconds=5)
    assert (10, 1, 2.0) == (load.acknowledged, load.not_2xx, load.per_second)


@pytest.mark.parametrize("printed", ["unable to connect", WRK.format(11, 10, 0), WRK.format(11, 11, 1)])
def test_wrk_with_a_missing_response_is_no_result(printed: str) -> None:
    with pytest.raises(NoResult):
        parse_output(printed, seconds=5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("storage.durability=write", ("storage", "durability", "write")),
        ("server.workers=2", ("server", "workers", 2)),
        ('storage.partition_by=["date"]', ("storage", "partition_by", ["date"])),
    ],
)
def test_setting_is_parsed_as_toml_or_kept_as_text(text: str, value: tuple[str, str, object]) -> None:
    assert value == parse_setting(text)
