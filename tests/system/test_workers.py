"""Several workers under a supervisor: what they share, what is aggregated, and what happens when one dies."""

import asyncio
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from collector.site_counts import MAX_LABELLED_SITES, OTHER_SITES
from tests.crash.rounds import Ledger, kill, load, recover, send_unanswered, verdict, victim, victim_serving
from tests.support import body
from tests.system import wire
from tests.system.process import Process, Settings, configure, run, serving, wait_until
from tests.system.test_recover import LONG, ids_of, left_behind, segments

TWO = {"port": 0, "workers": 2}


def workers(process: Process) -> dict[int, int]:
    """The process ids of the running workers, by worker number."""
    found = {}
    for task in Path(f"/proc/{process.popen.pid}/task").iterdir():
        for child in read_proc(task / "children").split():
            arguments = read_proc(Path(f"/proc/{int(child)}/cmdline")).split(b"\0")
            if b"worker" in arguments:
                found[int(arguments[arguments.index(b"worker") + 1])] = int(child)
    return found


def read_proc(file: Path) -> bytes:
    """A file of /proc. Empty if the thread or process has just ended."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def replaced(process: Process, number: int, old: int) -> None:
    """Wait until another process has replaced the worker and all serve."""
    wait_until(lambda: workers(process).get(number, old) != old, f"worker {number} is replaced")
    all_serve(process)


def all_serve(process: Process) -> None:
    wait_until(
        lambda: process.metrics().by("state", "collector_workers") == {"configured": 2, "serving": 2, "ready": 2},
        "both workers serve",
    )


@contextmanager
def two_workers(folder: Path, *args: Any, **sections: Any) -> Iterator[Process]:
    with serving(folder, *args, server=TWO | sections.pop("server", {}), **sections) as process:
        yield process


def stored(process: Process) -> dict[str, int]:
    return process.metrics().by("site", "collector_stored_events_total")


def posted(process: Process, count: int, prefix: str = "s") -> set[str]:
    """Send `count` events, each on its own connection, all open at once. Returns their session ids."""
    ids = [f"{prefix}-{number}" for number in range(count)]

    async def post() -> None:
        connections = [await wire.connect(process.url) for _ in ids]
        for session_id, (reader, writer) in zip(ids, connections, strict=True):
            writer.write(wire.request("demo", body(session_id=session_id)))
            assert (await wire.read_reply(reader)).status == 201
        for _, writer in connections:
            writer.close()

    asyncio.run(post())
    return set(ids)


def test_workers_share_the_socket_and_their_metrics_are_aggregated(tmp_path: Path) -> None:
    with two_workers(tmp_path) as process:
        ids = posted(process, 60)
        assert process.post(b"{").status == 202
        assert process.post(site="nobody").status == 404
        assert {"demo": 60} == stored(process)
        scrape = process.metrics()
        assert 61 == scrape.value("collector_received_events_total", site="demo")
        assert {"invalid": 1} == scrape.by("reason", "collector_dropped_events_total", site="demo")
        assert {"demo": 60} == scrape.by("site", "collector_buffered_events")
        assert 1 == scrape.value("collector_ready") == scrape.value("python_info", **python_info(process))
        assert (200, "ready\n") == process.ask("/readyz")
        assert [(200, "ok")] * 8 == [process.ask("/healthz", public=True) for _ in range(8)]
        assert {"0", "1"} == {path.parent.name for path in segments(tmp_path)}
        assert process.stop() == 0
        assert ids == ids_of(process)
        assert 2 == len(process.parts()), "each worker has served and written its own part"
    assert [] == segments(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("count", [1, 2])
def test_serving_processes_load_neither_numpy_nor_pandas(tmp_path: Path, count: int) -> None:
    """pyarrow imports them if they are installed, as they are for these tests. Both are 46 MB for each process."""
    with serving(tmp_path, server={"port": 0, "workers": count}, storage={"flush_interval_s": 0.1}) as process:
        if count > 1:
            all_serve(process)
        assert process.post().status == 201
        process.published()
        pids = [process.popen.pid, *workers(process).values()]
        assert count == len(pids) - (count > 1)
        maps = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in pids}
        assert "libarrow" in maps[pids[-1]]
        for text in maps.values():
            assert set() == {line.split()[-1] for line in text.splitlines() if "/numpy/" in line or "/pandas/" in line}


def python_info(process: Process) -> dict[str, str]:
    (labels,) = [dict(labels) for name, labels in process.metrics().samples if name == "python_info"]
    return labels


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
async def test_connections_spread_over_the_workers(tmp_path: Path, at_once: bool, busy: bool) -> None:
    """No worker gets more than two thirds of the connections, busy or idle."""
    ledger = Ledger()
    loaded = 8 * busy
    with two_workers(tmp_path, {"a": {}, "b": {}}) as process, load(process.url, ledger, connections=loaded):
        if busy:
            await asyncio.to_thread(wait_until, lambda: len(ledger.acked) > 200, "the load runs")
        before = {number: sockets(pid) for number, pid in workers(process).items()}
        if at_once:
            connections = await asyncio.gather(*(wire.connect(process.url) for _ in range(64)))
        else:
            connections = [await wire.connect(process.url) for _ in range(64)]
        for reader, writer in connections:  # a response proves that it was accepted
            writer.write(wire.request("nobody", b"{}"))
            await wire.read_reply(reader)
        got = [sockets(pid) - before[number] for number, pid in workers(process).items()]
        assert abs(sum(got) - 64) <= loaded  # a client of the load may leave, or come, in between
        assert max(got) < 64 * 2 / 3, got
        for _, writer in connections:
            writer.close()


def sockets(pid: int) -> int:
    return sum(os.readlink(link).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir())


def test_supervisor_stays_small(tmp_path: Path) -> None:
    """It loads none of a worker's libraries: pyarrow alone takes 60 MB."""
    with two_workers(tmp_path) as process:
        libraries = Path(f"/proc/{process.popen.pid}/maps").read_text()
        assert "libarrow" not in libraries
        assert "libarrow" in Path(f"/proc/{workers(process)[0]}/maps").read_text()


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_worker_is_replaced_and_its_segments_recovered_at_once(tmp_path: Path, number: int) -> None:
    """Nothing else is flushed meanwhile. The counters of the dead worker are kept."""
    with two_workers(tmp_path, storage=LONG) as process:
        ids = posted(process, 40)
        assert {"demo": 40} == stored(process)
        old = workers(process)[number]
        os.kill(old, signal.SIGKILL)
        process.logged("recovered every segment")
        replaced(process, number, old)
        assert {"demo": 40} == stored(process)
        scrape = process.metrics()
        assert 1 == scrape.value("collector_worker_restarts_total")
        recovered = int(scrape.value("collector_recovered_events_total"))
        assert 0 < recovered < 40
        assert recovered == len(process.rows())
        ids |= posted(process, 20, "later")
        assert process.stop() == 0
        assert ids == ids_of(process)
    assert f"worker {number} died (killed by SIGKILL); replacing it at once" in process.log()


def test_killing_workers_under_load_neither_loses_nor_duplicates_nor_invents_events(tmp_path: Path) -> None:
    """Only connections of the dead worker break. Connections in the queue are served.

    Batches that were not answered are sent again. Either worker may get them.
    """
    ledger = Ledger()
    with victim_serving(tmp_path, server=TWO) as process:
        for round_ in range(4):
            with load(process.url, ledger, connections=16, reconnects=True):
                before = len(ledger.acked)
                wait_until(lambda before=before: len(ledger.acked) > before + 200, "the load runs")  # type: ignore[misc]
                number = round_ % 2
                old = workers(process)[number]
                os.kill(old, signal.SIGKILL)
                at_kill = len(ledger.acked)
                wait_until(lambda at_kill=at_kill: len(ledger.acked) > at_kill + 200, "the other worker continues")  # type: ignore[misc]
                replaced(process, number, old)
        send_unanswered(process.url, ledger)
        assert {201: len(ledger.acked)} == dict(ledger.statuses)
        samples = process.metrics().samples
        received, kept, dropped = (
            sum(value for (name, _), value in samples.items() if name == f"collector_{what}_events_total")
            for what in ("received", "stored", "dropped")
        )
        assert received == kept + dropped
        assert process.stop() == 0
    assert verdict(tmp_path / "data", ledger) is None


async def test_queued_connections_outlive_a_killed_worker(tmp_path: Path) -> None:
    """Both workers are stopped, so new connections wait in the queue. Then one is killed and the other continues."""
    with two_workers(tmp_path) as process:
        pids = workers(process)
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
        connections = [await wire.connect(process.url) for _ in range(40)]
        for number, (_, writer) in enumerate(connections):
            writer.write(wire.request("demo", body(session_id=f"q-{number}")))
        os.kill(pids[0], signal.SIGKILL)
        os.kill(pids[1], signal.SIGCONT)
        async with asyncio.timeout(20):
            replies = [await wire.read_reply(reader) for reader, _ in connections]
        assert {201} == {reply.status for reply in replies}
        for _, writer in connections:
            writer.close()
        await asyncio.to_thread(replaced, process, 0, pids[0])
        assert await asyncio.to_thread(process.stop) == 0
        assert {f"q-{number}" for number in range(40)} == ids_of(process)


def test_a_worker_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    """Scrapes do not hang with it, and keep its counters. The other worker serves on."""
    with two_workers(tmp_path, storage=LONG) as process:
        ids = posted(process, 20)
        assert {"demo": 20} == stored(process)
        old = workers(process)[1]
        os.kill(old, signal.SIGSTOP)
        assert {"demo": 20} == stored(process)
        assert process.metrics().value("collector_workers", state="serving") == 1
        ids |= posted(process, 10, "meanwhile")
        process.logged("worker 1 hangs: killed")
        replaced(process, 1, old)
        process.logged("recovered every segment")
        assert {"demo": 30} == stored(process)
        assert process.stop() == 0
        assert ids == ids_of(process)


def test_workers_drain_when_the_supervisor_is_killed_and_the_next_start_waits_for_them(tmp_path: Path) -> None:
    """The next supervisor gets data_dir once all of them have ended."""
    with two_workers(tmp_path, server={"shutdown_timeout_s": 3, "body_timeout_s": 60}) as process:
        ids = posted(process, 20)
        pids = workers(process)
        with in_flight(process):
            kill(process)
            with two_workers(tmp_path) as again:
                assert not any(alive(pid) for pid in pids.values())
                assert ids == ids_of(again), "the workers have drained"
                ids |= posted(again, 10, "again")
                assert again.stop() == 0
                assert ids == ids_of(again)


@contextmanager
def in_flight(process: Process) -> Iterator[None]:
    """A request in flight, whose body does not arrive."""
    address = urlsplit(process.url)
    with socket.create_connection((address.hostname, address.port), timeout=15) as connection:
        connection.sendall(wire.head("demo", 100) + b"{")
        wait_until(lambda: process.metrics().value("collector_requests_in_flight") == 1, "the request is in flight")
        yield


def test_power_failure_leaves_nothing_unrecovered(tmp_path: Path) -> None:
    """All processes are killed at once. The next start has fewer workers, and the last only one."""
    ledger = Ledger()
    for count in (3, 2, 1):
        with victim_serving(tmp_path, server={"workers": count, "port": 0}, storage=LONG) as process:
            with load(process.url, ledger):
                before = len(ledger.acked)
                wait_until(lambda before=before: len(ledger.acked) > before + 100, "the load runs")  # type: ignore[misc]
                pids = workers(process)
                kill(process)
                for pid in pids.values():
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda pids=pids: not any(map(alive, pids.values())), "all are dead")  # type: ignore[misc]
    recover(tmp_path)
    assert verdict(tmp_path / "data", ledger) is None


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_start_with_fewer_workers_loses_nothing(tmp_path: Path) -> None:
    """Each worker recovers its own folder, and the first also the folders of workers that no longer exist."""
    ids = left_behind(tmp_path)
    found = segments(tmp_path)
    assert len(found) > 1
    for number, path in enumerate(found):
        folder = tmp_path / "data" / "journal" / ("7", "1", "0")[number % 3]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    with two_workers(tmp_path, storage=LONG) as process:
        wait_until(lambda: len(process.rows()) == len(ids), "everything is recovered")
        assert ids == ids_of(process)
        # A part is published before it is counted.
        recovered = "collector_recovered_events_total"
        wait_until(lambda: len(ids) == process.metrics().value(recovered), "everything is counted")
        assert process.stop() == 0
    assert [] == segments(tmp_path)


def test_worker_that_gets_sigterm_drains_and_is_replaced(tmp_path: Path) -> None:
    with two_workers(tmp_path) as process:
        ids = posted(process, 20)
        old = workers(process)[0]
        os.kill(old, signal.SIGTERM)
        replaced(process, 0, old)
        assert ids_of(process), "the worker has drained"
        assert process.stop() == 0
        assert ids == ids_of(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_all_processes_drains_all(tmp_path: Path, number: signal.Signals) -> None:
    """As from Ctrl-C or systemd. For a worker, the supervisor's command is not a second signal."""
    with two_workers(tmp_path) as process:
        ids = posted(process, 20)
        for pid in (*workers(process).values(), process.popen.pid):
            os.kill(pid, number)
        assert process.exit_code() == 0
        assert ids == ids_of(process)
        assert "second signal" not in process.log()
        assert "Traceback" not in process.log()


def test_reload_reaches_all_workers_and_an_invalid_file_none(tmp_path: Path) -> None:
    """Each reload is counted and logged once. A replacement starts with the last valid configuration."""
    with two_workers(tmp_path) as process:
        configure(tmp_path, {"demo": {}, "new": {}}, server=TWO)
        process.send_signal(signal.SIGHUP)
        process.logged("reloaded: 2 sites")
        assert {201} == {process.post(site="new").status for _ in range(20)}
        (tmp_path / "collector.toml").write_text("[sites.other")
        process.send_signal(signal.SIGHUP)
        process.logged("is not TOML")
        assert 1 == process.log().count("nothing changed")
        old = workers(process)[0]
        os.kill(old, signal.SIGKILL)
        replaced(process, 0, old)
        assert {201} == {process.post(site="new").status for _ in range(20)}
        scrape = process.metrics()
        assert {"done": 1, "failed": 1} == scrape.by("outcome", "collector_reloads_total")
        assert process.stop() == 0


def test_replacement_gives_series_to_the_same_sites_as_the_others(tmp_path: Path) -> None:
    """On its own it would choose others: the limit of a thousand is reached, and a new site has replaced the first."""
    with serving(tmp_path, {f"site-{n}": {} for n in range(MAX_LABELLED_SITES)}, server=TWO) as process:
        names = ("new", *(f"site-{n}" for n in range(1, MAX_LABELLED_SITES)))
        configure(tmp_path, {name: {} for name in names}, server=TWO)
        process.send_signal(signal.SIGHUP)
        process.logged("reloaded")
        old = workers(process)[0]
        os.kill(old, signal.SIGKILL)
        replaced(process, 0, old)
        for _ in range(20):
            process.post(site="new")
            process.post(site="site-1")
        assert {OTHER_SITES: 20, "site-1": 20} == stored(process)


def test_rate_limit_holds_across_workers_and_their_deaths(tmp_path: Path) -> None:
    """All workers share a bucket of 30 that hardly refills. With a bucket each, two workers would allow 60."""
    with two_workers(tmp_path, rate_limit={"requests_per_minute": 1, "burst": 30}) as process:
        statuses = Counter(process.post().status for _ in range(20))
        old = workers(process)[0]
        os.kill(old, signal.SIGKILL)
        replaced(process, 0, old)
        statuses += Counter(process.post().status for _ in range(40))
        assert statuses[201] in (30, 31, 32)
        assert 1 == process.metrics().value("collector_rate_limit_clients")
        configure(tmp_path, {"demo": {}, "new": {}}, server=TWO, rate_limit={"requests_per_minute": 1, "burst": 20})
        process.send_signal(signal.SIGHUP)
        process.logged("reloaded: 2 sites")
        assert {429} == {process.post().status for _ in range(10)}


def test_client_has_one_hash_a_day_in_all_workers(tmp_path: Path) -> None:
    with two_workers(tmp_path, privacy={"client_ip": "hash"}) as process:
        posted(process, 40)
        assert process.stop() == 0
        assert 2 == len(process.parts())
        assert 1 == len({row["client_ip"] for row in process.rows()})


@pytest.mark.parametrize("section", ["server", "admin"])
def test_taken_port_exits_1_with_one_line(tmp_path: Path, section: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports: Settings = {"server": TWO, "admin": {"port": 0}}
        ports[section] = ports[section] | {"port": port}
        done = run("serve", "--config", configure(tmp_path, **ports), folder=tmp_path)
    expected = f"collector: {section}: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert (1, expected) == (done.returncode, done.stderr)


def test_worker_that_cannot_start_ends_the_collector_with_one_line(tmp_path: Path) -> None:
    """A file is where a folder must be."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal").touch()
    done = run("serve", "--config", configure(tmp_path, server=TWO), folder=tmp_path)
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert (1, 1) == (done.returncode, len(lines)), done.stderr
    assert lines[0].startswith(f"collector: data_dir {tmp_path / 'data'}: ")


def test_auto_is_one_worker_per_usable_core(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    for some in (cores[:1], cores[:2]):
        command = ("taskset", "-c", ",".join(map(str, some)), *victim())
        with serving(tmp_path, server={"port": 0, "workers": "auto"}, command=command) as process:
            assert len(some) == process.metrics().value("collector_workers", state="configured")
            assert (2 if len(some) > 1 else 0) == len(workers(process))
            assert process.post().status == 201
            assert process.stop() == 0
