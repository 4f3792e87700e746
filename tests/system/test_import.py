"""`collector import` into a collector, both as processes: from a file to Parquet."""

import gzip
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from collector.sender_keys import fingerprint, new_key
from tests.support import body
from tests.system.process import COMMAND, READY_S, Process, environment, run, serving, wait_until

PAGES = 25_000


def importing(collector: Process, file: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    return run("import", file, "--site", "demo", "--url", collector.url, *more, folder=collector.folder)


def write_events(file: Path, count: int, **changes: Any) -> None:
    """Events whose pages are their line numbers."""
    file.write_bytes(b"".join(body(page_path=f"/{number}", **changes) + b"\n" for number in range(1, count + 1)))


def batches_stored(collector: Process) -> float:
    return collector.metrics().value("collector_batches_total", outcome="stored")


def stopped_import(collector: Process, file: Path, line: int) -> tuple[int, int]:
    """Import from this line, and stop it once a batch is stored. Returns the exit code, and the line to go on with."""
    before = batches_stored(collector)
    process = subprocess.Popen(
        [*COMMAND, "import", str(file), "--site", "demo", "--url", collector.url, "--from-line", str(line)],
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stderr is not None
    try:
        # Signals are handled before this is printed. The batch that is stored may be the last one of the run before.
        assert process.stderr.readline().startswith(b"collector: without --key-file")
        wait_until(lambda: process.poll() is not None or batches_stored(collector) > before, "a batch is stored")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=READY_S)
    finally:
        process.kill()
    return process.returncode, int(err.split()[-1]) if process.returncode == 143 else line


def pages(collector: Process) -> list[int]:
    """Stop the collector, and read the numbers of the pages that were stored, sorted."""
    assert 0 == collector.stop()
    return sorted(int(row["page_path"][1:]) for row in collector.rows())


def write_key(folder: Path) -> tuple[Path, list[str]]:
    """A file with a new key, and the setting `keys` for it."""
    key = new_key()
    file = folder / "key"
    file.touch(0o600)
    file.write_text(key)
    return file, [fingerprint(key)]


def test_import_stores_every_event_of_a_file(tmp_path: Path) -> None:
    """The same file again, within a day, stores nothing."""
    file = tmp_path / "events.gz"
    key_file, keys = write_key(tmp_path)
    with gzip.open(file, "wb", 1) as packed:
        for number in range(1, PAGES + 1):
            packed.write(body(page_path=f"/{number}") + b"\n")
    with serving(tmp_path, {"demo": {"keys": keys}}, rate_limit={"requests_per_minute": 60}) as collector:
        for _ in range(2):
            done = importing(collector, file, "--key-file", key_file)
            assert (0, "", f"{PAGES} of {PAGES} events stored\n") == (done.returncode, done.stdout, done.stderr)
        assert [*range(1, PAGES + 1)] == pages(collector)


def test_import_prints_what_the_collector_does_not_store(tmp_path: Path) -> None:
    file = tmp_path / "events"
    good = body(page_path="/1")
    file.write_bytes(b"\n".join([good, b"", b"{}", b"[1]", b"\xff", good, *[b"{}"] * 200]))
    with serving(tmp_path) as collector:
        done = importing(collector, file)
        assert [1, 1] == pages(collector)
    lines = done.stdout.splitlines()
    assert [*range(3, 6), *range(7, 207)] == [int(line.partition(":")[0]) for line in lines]
    assert lines[0].startswith("3: invalid: Validation error: session_id is required")
    assert "4: invalid: line is not one JSON object" == lines[1]
    assert "206: not stored" == lines[-1]
    assert (1, "2 of 205 events stored") == (done.returncode, done.stderr.splitlines()[-1])


def test_wrong_key_and_unknown_site_stop_the_import(tmp_path: Path) -> None:
    file = tmp_path / "events"
    write_events(file, 3)
    _, keys = write_key(tmp_path)
    wrong, _ = write_key(tmp_path)
    with serving(tmp_path, {"demo": {"keys": keys}, "other": {}}) as collector:
        done = importing(collector, file, "--key-file", wrong)
        assert (1, "") == (done.returncode, done.stdout)
        assert done.stderr.startswith("collector: lines 1 to 3: 401 Unauthorized: ")
        done = run("import", file, "--site", "none", "--url", collector.url, folder=tmp_path)
        assert (1, "") == (done.returncode, done.stdout)
        assert f"collector: no site none at {collector.url}\n" in done.stderr


def test_batch_that_is_too_large_for_the_bucket_or_the_body_is_halved(tmp_path: Path) -> None:
    file = tmp_path / "events"
    write_events(file, 100)
    limit = {"requests_per_minute": 60_000, "burst": 30}
    with serving(tmp_path, rate_limit=limit, server={"max_batch_bytes": 5_000}) as collector:
        done = importing(collector, file)
        assert (0, "") == (done.returncode, done.stdout), done.stderr
        assert [*range(1, 101)] == pages(collector)


def test_import_that_is_stopped_again_and_again_stores_every_event_once(tmp_path: Path) -> None:
    """Each run goes on at the line that the run before it named."""
    file = tmp_path / "events"
    write_events(file, PAGES)
    line, code = 1, 143
    with serving(tmp_path) as collector:
        while code == 143:
            code, line = stopped_import(collector, file, line)
        assert 0 == code
        assert Counter(range(1, PAGES + 1)) == Counter(pages(collector))


def test_import_waits_for_a_collector_that_was_killed(tmp_path: Path) -> None:
    """The batch that was in flight is sent again to the next collector, which knows whether it has it."""
    file = tmp_path / "events"
    write_events(file, 2 * PAGES)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        server = {"port": found.getsockname()[1]}
    with serving(tmp_path, server=server) as collector:
        process = subprocess.Popen(
            [*COMMAND, "import", str(file), "--site", "demo", "--url", collector.url],
            stderr=subprocess.PIPE,
            env=environment(),
        )
        wait_until(lambda: batches_stored(collector) > 0, "a batch is stored")
        collector.send_signal(signal.SIGKILL)
        collector.exit_code()
    try:
        with serving(tmp_path, server=server) as collector:
            _, err = process.communicate(timeout=READY_S)
            assert [*range(1, 2 * PAGES + 1)] == pages(collector)
    finally:
        process.kill()
    assert 0 == process.returncode
    assert b"; trying again in " in err
    assert f"{2 * PAGES} of {2 * PAGES} events stored" == err.decode().splitlines()[-1]
