"""Reloads: which settings change at once, which need a restart, and that an invalid file changes nothing."""

import asyncio
import logging
from pathlib import Path

import pytest

from collector.config import Config
from collector.config_file import load
from collector.daemon.reload import Reloads
from collector.daemon.sd_notify import Manager
from collector.metrics import Metrics

SITE = "[sites.demo]\n"
AT_ONCE = {
    "[server]\nmax_body_bytes = 1000\n": ("server", "max_body_bytes"),
    "[server]\nbody_timeout_s = 3\n": ("server", "body_timeout_s"),
    "[server]\nmax_connections_per_client = 7\n": ("server", "max_connections_per_client"),
    '[server]\ntrusted_proxies = ["192.0.2.1"]\n': ("server", "trusted_proxies"),
    "[rate_limit]\nburst = 5\n": ("rate_limit", "burst"),
    '[privacy]\nclient_ip = "full"\n': ("privacy", "client_ip"),
}
WITH_A_RESTART = {
    "[server]\nport = 8081\n": "server.port",
    "[server]\nworkers = 3\n": "server.workers",
    "[admin]\nport = 9091\n": "admin.port",
    '[storage]\ndata_dir = "elsewhere"\n': "storage.data_dir",
    '[tracker]\nscript_path = "s.js"\n': "tracker.script_path",
    '[tracker]\ncollect_path = "in"\n': "tracker.collect_path",
    '[tracker]\ndemo_dir = "gone"\n': "tracker.demo_dir",
}


def reloaded(file: Path, text: str) -> tuple[Reloads, Metrics, list[Config]]:
    """Reload a collector that runs with the defaults; also returns the configurations that it hands over."""
    file.write_text(SITE)
    running = load(file)
    metrics, handed_over = Metrics(running.sites), list[Config]()
    done = asyncio.Event()

    class DoneManager(Manager):
        def reloaded(self) -> None:
            done.set()

    async def hand_over(config: Config) -> None:
        handed_over.append(config)

    async def once() -> None:
        reloads.request()
        task = asyncio.create_task(reloads.run(hand_over))
        async with asyncio.timeout(30):
            await done.wait()
        task.cancel()

    reloads = Reloads(file, running, metrics, DoneManager())
    file.write_text(text)
    asyncio.run(once())
    return reloads, metrics, handed_over


@pytest.mark.parametrize(("text", "key"), AT_ONCE.items())
def test_live_settings_change_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, key: tuple[str, str]
) -> None:
    reloads, _, handed_over = reloaded(tmp_path / "collector.toml", SITE + text)
    section, name = key
    (config,) = handed_over
    assert getattr(getattr(load(tmp_path / "collector.toml"), section), name) == getattr(getattr(config, section), name)
    assert config == reloads.running
    assert "restart" not in caplog.text


@pytest.mark.parametrize(("text", "name"), WITH_A_RESTART.items())
def test_settings_that_need_a_restart_are_named_and_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, name: str
) -> None:
    before, _, _ = reloaded(tmp_path / "collector.toml", SITE)
    with caplog.at_level(logging.WARNING):
        after, _, _ = reloaded(tmp_path / "collector.toml", SITE + text)
    assert [f"reload: {name} takes effect only after a restart"] == caplog.messages
    assert before.running == after.running


def test_live_setting_of_one_section_is_not_live_in_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.daemon.reload.APPLIED_BY_RELOAD", {("server", "port")})
    text = SITE + "[server]\nport = 8081\n[admin]\nport = 9091\n"
    before, _, _ = reloaded(tmp_path / "collector.toml", SITE)
    with caplog.at_level(logging.WARNING):
        after, _, _ = reloaded(tmp_path / "collector.toml", text)
    assert ["reload: admin.port takes effect only after a restart"] == caplog.messages
    assert (8081, before.running.admin.port) == (after.running.server.port, after.running.admin.port)


def test_invalid_file_changes_nothing_and_all_its_errors_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = SITE + "[server]\nport = 'x'\n[rate_limit]\nburst = -1\n"
    reloads, metrics, handed_over = reloaded(tmp_path / "collector.toml", text)
    assert [] == handed_over
    assert 2 == len(caplog.messages)
    assert "last reload failed: " in (reloads.failure or "")
    assert "(and 1 more)" in (reloads.failure or "")
    assert 1 == metrics.registry.get_sample_value("collector_last_reload_failed")
    assert 1 == metrics.registry.get_sample_value("collector_reloads_total", {"outcome": "failed"})
