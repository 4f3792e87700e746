"""The tracker's script and the demo, from a real collector: one process, or workers."""

import signal
from pathlib import Path

import pytest

from collector.edge.script import current, pinned_name
from tests.system.process import configure, run, serving

SCRIPT = current().content["identity"].decode()
PATHS = ("/t.js", "/public/demo/t.js", "/s.js", "/public/demo/s.js", f"/{pinned_name('t.js', current())}")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_process_serves_the_script_and_the_demo(tmp_path: Path, workers: int) -> None:
    """The folder of the demo is relative to where the collector was started, not to data_dir."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "index.html").write_text("the shop")
    tracker = {"script_path": "s.js", "collect_path": "in", "demo_dir": "shop"}
    with serving(tmp_path, server={"port": 0, "workers": workers}, tracker=tracker) as process:
        for _ in range(4 * workers):  # each on a new connection, so each worker gets some
            for path in PATHS:
                assert (200, SCRIPT) == process.ask(path, public=True)
            assert (200, "the shop") == process.ask("/demo/", public=True)
        configure(tmp_path, server={"port": 0, "workers": workers}, tracker=tracker | {"demo_dir": ""})
        process.send_signal(signal.SIGHUP)
        process.logged("reload: tracker.demo_dir takes effect only after a restart")
        process.logged("reloaded: 1 site")
        assert (200, "the shop") == process.ask("/demo/", public=True)
        assert 0 == process.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_collector_does_not_start_without_the_folder_of_its_demo(tmp_path: Path, workers: int) -> None:
    file = configure(tmp_path, server={"port": 0, "workers": workers}, tracker={"demo_dir": "gone"})
    for command in (("serve", "--config", file), ("check-config", file)):
        done = run(*command, folder=tmp_path)
        expected = f"collector: {file}: tracker.demo_dir: gone cannot be read: No such file or directory\n"
        assert (2, expected) == (done.returncode, done.stderr)
