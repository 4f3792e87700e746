"""The installed collector on a booted host: it is started, stopped, upgraded, broken and repaired.

An open loop of clients counts refused and unanswered requests. After each scenario every acknowledged id in the ledger
must be in the parts exactly once.
"""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from collector.cli.install import unit_files
from tests.crash.conftest import need
from tests.crash.rounds import Ledger, verdict
from tests.support import body
from tests.system import wire
from tests.system.process import Settings, toml, wait_until
from tests.systemd.clients import SITE, URL, Seen, sending
from tests.systemd.host import Host, booted

ROOT = Path(__file__).parents[2]
BINARY = ROOT / "dist/collector"
PAGE = (ROOT / "docs/systemd.md").read_text()
RUNBOOK = (ROOT / "docs/alerts.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PACK = ROOT / "packaging/pack.py"
CONFIG = "/etc/collector/collector.toml"
DATA_DIR = "/var/lib/private/collector"
ADMIN = "http://127.0.0.1:9090"
SITES: Settings = {SITE: {}}
SHORT_WATCHDOG = "[Service]\nWatchdogSec=2s\n"
RESTARTED_S = 60.0

T = TypeVar("T")


class Unit:
    """The collector, as an administrator sees it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ledger = Ledger()
        self.workers = 1

    def configure(self, sites: Settings | None = None) -> None:
        sections: Settings = {
            "server": {"workers": self.workers},
            "storage": {"data_dir": "/var/lib/collector", "min_free_bytes": 8 << 20, "flush_interval_s": 2},
            "rate_limit": {"requests_per_minute": 0},
        }
        self.host.write(CONFIG, toml(SITES if sites is None else sites, sections))

    def systemctl(self, verb: str, *units: str, check: bool = True) -> int:
        return self.host.run("systemctl", verb, *(units or ("collector",)), check=check).returncode

    def drop_in(self, name: str, text: str) -> None:
        self.host.write(f"/run/systemd/system/collector.service.d/{name}.conf", text)
        self.systemctl("daemon-reload", "--quiet")

    def main_pid(self) -> int:
        return int(self.host.show("collector", "MainPID"))

    def worker_pids(self) -> list[int]:
        found = self.host.run("pgrep", "--parent", str(self.main_pid()), check=False).stdout.split()
        return [int(pid) for pid in found]

    def restarts(self) -> int:
        return int(self.host.show("collector", "NRestarts"))

    def status(self) -> str:
        return self.host.show("collector", "StatusText")

    def says(self, pattern: str) -> None:
        """Wait until the status line matches."""
        wait_until(lambda: re.search(pattern, self.status()) is not None, f"the status line says {pattern!r}")

    def log(self) -> str:
        return self.host.run("journalctl", "--unit=collector", "--output=cat", "--no-pager").stdout

    def ask(self, path: str) -> str:
        """Fetch a page from the admin port."""

        def get() -> str:
            with urllib.request.urlopen(ADMIN + path, timeout=30) as response:
                text: str = response.read().decode()
                return text

        return self.host.on_its_network(get)

    def metric(self, line: str) -> bool:
        return f"\n{line}\n" in self.ask("/metrics")

    def post(self, site: str = SITE) -> int:
        """Send an event and note it in the ledger. Return the HTTP status."""
        session_id = self.ledger.next_id()

        async def post() -> int:
            reader, writer = await wire.connect(URL)
            writer.write(wire.request(site, body(session_id=session_id)))
            reply = await wire.read_reply(reader)
            writer.close()
            self.ledger.answered(session_id, reply.status)
            return reply.status

        return self.host.on_its_network(lambda: asyncio.run(post()))

    def settled(self) -> str | None:
        """Stop the collector, which flushes, and compare the parts with the ledger. None if they agree."""
        self.systemctl("stop")
        return verdict(self.host.root / DATA_DIR.lstrip("/"), self.ledger)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    need(BINARY.exists(), "dist/collector, which `make binary` makes")
    with booted(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same binary, with another commit."""
    need(all(map(shutil.which, ("gcc", "zstd"))), "gcc and zstd, which `make binary` needs")
    folder = tmp_path_factory.mktemp("newer")
    variables = os.environ | {"COLLECTOR_UNPACK_DIR": str(folder)}
    tree = subprocess.run([BINARY, "--unpack-only"], env=variables, check=True, capture_output=True, text=True).stdout
    commit = Path(tree.strip()) / "app/collector/commit"
    commit.unlink(missing_ok=True)
    commit.write_text("newer01\n")
    subprocess.run([sys.executable, PACK, tree.strip(), folder / "collector"], check=True, capture_output=True)
    return folder / "collector"


def commands(section: str) -> list[list[str]]:
    """The commands in the block of this section of docs/systemd.md, each with its `sudo`."""
    block = re.search(rf"^## {section}\n.*?^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    return [line.partition(" #")[0].split() for line in block[1].splitlines()]


def put(host: Host, program: Path, path: str) -> None:
    """Copy a program to the host, as a download would."""
    shutil.copyfile(program, host.root / path.lstrip("/"))
    host.run("chmod", "+x", path)


@pytest.fixture(scope="module")
def installed(host: Host) -> Unit:
    """Install with the three commands of docs/systemd.md. The second is an editor; the test writes the file instead."""
    install, edit, enable = commands("Install")
    put(host, BINARY, "/opt/collector")
    assert ["sudo", "./collector"] == install[:2]
    host.run("/opt/collector", *install[2:])
    unit = Unit(host)
    assert ["sudoedit", CONFIG] == edit
    unit.configure()
    host.run(*enable[1:])
    return unit


@pytest.fixture
def unit(installed: Unit, request: pytest.FixtureRequest) -> Iterator[Unit]:
    """The running collector. The test's parameter is the number of workers, by default one."""
    installed.workers = getattr(request, "param", 1)
    installed.configure()
    installed.systemctl("enable", "--quiet", "--now", "collector")
    yield installed
    installed.host.run("rm", "-rf", "/run/systemd/system/collector.service.d")
    installed.systemctl("daemon-reload", "--quiet")
    installed.systemctl("reset-failed")
    installed.configure()
    assert installed.settled() is None


with_one_worker_and_with_two = pytest.mark.parametrize("unit", [1, 2], indirect=True, ids=["1 worker", "2 workers"])


def test_installed_collector_starts_and_is_ready(unit: Unit) -> None:
    assert "active" == unit.host.show("collector", "ActiveState")
    assert "ready\n" == unit.ask("/readyz")
    assert 201 == unit.post()
    unit.says(r"^receiving \d+/s, \d+ segments?, [\d.,]+ GB free$")
    assert "process_resident_memory_bytes" in unit.ask("/metrics")


def test_systemd_verifies_the_units(unit: Unit) -> None:
    names = [f"/usr/local/lib/systemd/system/{name}" for name in unit_files(Path("/usr/local"))]
    done = unit.host.run("systemd-analyze", "verify", "--man=no", *names)
    assert [] == [line for line in done.stderr.splitlines() if "collector" in line]
    unit.host.run("systemd-analyze", "security", "--threshold=15", "--no-pager", "collector.service")


def test_service_has_no_capabilities_and_filters_system_calls(unit: Unit) -> None:
    """Checked on the running process, not in the unit."""
    status = (unit.host.root / f"proc/{unit.main_pid()}/status").read_text()
    assert "0000000000000000" == re.search(r"CapBnd:\s*(\w+)", status)[1]  # type: ignore[index]
    assert "2" == re.search(r"Seccomp:\s*(\d)", status)[1]  # type: ignore[index]
    assert "collector" == unit.host.run("ps", "-o", "user=", "-p", str(unit.main_pid())).stdout.strip()


def test_bad_configuration_fails_with_its_reason_and_is_not_retried(unit: Unit) -> None:
    """Clients keep connecting, and any connection to an open socket would start the service again."""
    unit.systemctl("stop")
    unit.host.write(CONFIG, "[server]\nprot = 1\n[sites.demo]\n")
    with sending(unit.host, Ledger()) as clients:
        assert 0 != unit.systemctl("start", check=False)
        wait_until(lambda: unit.host.show("collector.socket", "ActiveState") == "inactive", "the port is closed")
        refused = clients.own["ConnectionRefusedError"]
        wait_until(lambda: clients.own["ConnectionRefusedError"] > refused + 200, "clients are refused")
    status = unit.host.run("systemctl", "status", "collector", check=False).stdout
    assert f"{CONFIG}: server.prot: unknown key; did you mean port?" in status
    assert ("failed", "2", 0) == (
        *(unit.host.show("collector", name) for name in ("ActiveState", "ExecMainStatus")),
        unit.restarts(),
    )
    tries = unit.log().split("server.prot: unknown key")
    assert len(tries) - 1 <= 3
    unit.configure()
    unit.systemctl("start")
    assert 201 == unit.post()


@with_one_worker_and_with_two
def test_failed_reload_keeps_the_last_good_configuration_and_reports_it(unit: Unit) -> None:
    unit.configure(SITES | {"new": {}})
    unit.systemctl("reload")
    assert 201 == unit.post("new")
    assert unit.metric("collector_last_reload_failed 0.0")
    unit.host.write(CONFIG, "[server]\nprot = 1\n[sites]\n")
    assert 0 != unit.systemctl("reload", check=False)
    wait_until(lambda: unit.metric("collector_last_reload_failed 1.0"), "the failed reload is reported")
    assert unit.metric('collector_reloads_total{outcome="failed"} 1.0')
    unit.says(r"^last reload failed: .*server\.prot: unknown key.*\(and 1 more\); receiving")
    assert [201, 201, "active"] == [unit.post(), unit.post("new"), unit.host.show("collector", "ActiveState")]
    unit.configure()
    unit.systemctl("reload")
    assert unit.metric("collector_last_reload_failed 0.0")
    assert [201, 404] == [unit.post(), unit.post("new")]
    unit.says("^receiving")


@with_one_worker_and_with_two
def test_restart_and_upgrade_under_load_refuse_no_client_and_lose_no_event(unit: Unit, newer: Path) -> None:
    put(unit.host, newer, "/opt/collector-newer")
    with sending(unit.host, unit.ledger) as clients:
        for program in ("/opt/collector", "/opt/collector-newer"):
            clients.sees(200)
            before = unit.main_pid()
            unit.host.run(program, "install")
            unit.systemctl("restart")
            assert before != unit.main_pid()
            assert ("newer" in program) == ("newer01" in unit.ask("/version"))
        clients.sees(200)
    report("restart, upgrade", clients)
    assert {} == clients.failed()
    assert unit.settled() is None


@with_one_worker_and_with_two
def test_unix_socket_of_the_unit_lasts_through_a_restart_and_an_upgrade(unit: Unit, newer: Path) -> None:
    """As the port does. The drop-in is the one of docs/systemd.md."""
    found = re.search(r"^```ini\n(\[Socket\]\nListenStream=(/\S+)\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    text, path = found[1], found[2]
    unit.host.write("/run/systemd/system/collector.socket.d/unix.conf", text)
    unit.host.run("groupadd", "--force", "www-data")
    put(unit.host, newer, "/opt/collector-newer")
    try:
        unit.systemctl("daemon-reload", "--quiet")
        unit.systemctl("stop", "collector.socket", "collector")
        unit.systemctl("start", "collector.socket", "collector")
        socket_file = unit.host.root / path.lstrip("/")
        assert (0o660, "www-data") == (
            socket_file.stat().st_mode & 0o777,
            unit.host.run("stat", "-c%G", path).stdout.strip(),
        )
        with sending(unit.host, unit.ledger, f"unix:{socket_file}") as clients:
            for program in ("/opt/collector", "/opt/collector-newer"):
                clients.sees(200)
                unit.host.run(program, "install")
                unit.systemctl("restart")
                assert socket_file.exists()
            clients.sees(200)
            assert 201 == unit.post(), "the port still works"
        report("restart, upgrade, Unix socket", clients)
        assert {} == clients.failed()
    finally:
        unit.host.run("rm", "-r", "/run/systemd/system/collector.socket.d")
        unit.systemctl("daemon-reload", "--quiet")
        unit.systemctl("stop", "collector.socket", "collector")
        unit.systemctl("start", "collector.socket", "collector")
    assert unit.settled() is None


def test_reload_works_between_an_upgrade_and_its_restart(unit: Unit, newer: Path) -> None:
    """The new version checks the file as a user that cannot unpack the program."""
    put(unit.host, newer, "/opt/collector-newer")
    for program in ("/opt/collector", "/opt/collector-newer"):
        unit.systemctl("restart")
        unit.host.run(program, "install")
        unit.systemctl("reload")


@with_one_worker_and_with_two
def test_client_that_connects_before_a_restart_and_sends_after_it_is_answered(unit: Unit) -> None:
    """The connection waits in the kernel (DeferAcceptSec), not accepted, until its first bytes arrive."""
    session_id = unit.ledger.next_id()

    def restart_between() -> bytes:
        with socket.create_connection(("127.0.0.1", 8080), timeout=60) as connection:
            unit.systemctl("restart")
            connection.sendall(wire.request(SITE, body(session_id=session_id)))
            return connection.recv(12)

    assert b"HTTP/1.1 201" == unit.host.on_its_network(restart_between)
    unit.ledger.answered(session_id, 201)


@with_one_worker_and_with_two
def test_killed_main_process_refuses_no_client_and_loses_no_event(unit: Unit) -> None:
    """Only the requests in flight fail."""
    with sending(unit.host, unit.ledger) as clients:
        clients.sees(200)
        killed(unit, signal.SIGKILL)
        clients.sees(200)
    report("SIGKILL", clients)
    assert clients.failed().keys() <= CUT_OFF
    assert sum(clients.failed().values()) < 10
    assert unit.settled() is None


@pytest.mark.parametrize("unit", [2], indirect=True, ids=["2 workers"])
def test_killed_worker_refuses_no_client_and_loses_no_event(unit: Unit) -> None:
    wait_until(lambda: len(unit.worker_pids()) == 2, "two workers run")
    with sending(unit.host, unit.ledger) as clients:
        clients.sees(200)
        victim = unit.worker_pids()[0]
        unit.host.run("kill", "-KILL", str(victim))
        wait_until(lambda: len(set(unit.worker_pids()) - {victim}) == 2, "the worker is replaced")
        clients.sees(200)
    report("SIGKILL of a worker", clients)
    assert clients.failed().keys() <= CUT_OFF
    assert 0 == unit.restarts()
    assert unit.settled() is None


@with_one_worker_and_with_two
def test_stuck_main_process_is_killed_and_restarted(unit: Unit) -> None:
    unit.drop_in("watchdog", SHORT_WATCHDOG)
    unit.systemctl("restart")
    with sending(unit.host, unit.ledger) as clients:
        clients.sees(100)
        killed(unit, signal.SIGSTOP)
        clients.sees(100)
    report("SIGSTOP", clients)
    assert "ConnectionRefusedError" not in clients.own
    assert "Watchdog timeout" in unit.log()
    assert "Fatal Python error: Aborted" in unit.log(), "the log shows where it hung"
    assert unit.settled() is None


def test_collector_refuses_events_on_a_full_disk_and_accepts_them_again_afterwards(unit: Unit) -> None:
    assert unit.settled() is None
    unit.host.run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", DATA_DIR)
    kept, unit.ledger = unit.ledger, Ledger()
    try:
        unit.systemctl("start")
        assert 201 == unit.post()
        unit.host.run("fallocate", "-l", "60M", f"{DATA_DIR}/ballast")
        wait_until(lambda: unit.post() == 503, "events are refused")
        unit.says("^refusing events: disk space is low; receiving")
        assert "active" == unit.host.show("collector", "ActiveState")
        unit.host.run("rm", f"{DATA_DIR}/ballast")
        wait_until(lambda: unit.post() == 201, "events are accepted again")
        unit.says("^receiving")
        assert unit.settled() is None
    finally:
        unit.systemctl("stop")
        unit.host.run("umount", DATA_DIR)
        unit.ledger = kept


def test_start_waits_for_the_disk_of_the_data_dir(unit: Unit) -> None:
    """Otherwise a disk that is mounted late would hide acknowledged events."""
    assert unit.settled() is None
    mount = "var-lib-private-collector.mount"
    unit.host.write(f"/run/systemd/system/{mount}", f"[Mount]\nWhat=tmpfs\nWhere={DATA_DIR}\nType=tmpfs\n")
    unit.systemctl("daemon-reload", "--quiet")
    kept, unit.ledger = unit.ledger, Ledger()
    try:
        unit.systemctl("start")
        assert "active" == unit.host.show(mount, "ActiveState")
        assert 201 == unit.post()
        assert unit.settled() is None
    finally:
        unit.systemctl("stop", "collector", mount)
        unit.host.run("rm", f"/run/systemd/system/{mount}")
        unit.systemctl("daemon-reload", "--quiet")
        unit.ledger = kept


def test_stop_flushes(unit: Unit) -> None:
    assert [201, 201, 201] == [unit.post() for _ in range(3)]
    assert unit.settled() is None
    assert "success" == unit.host.show("collector", "Result")


def test_commands_of_the_runbook_run_as_the_user_of_the_service(unit: Unit) -> None:
    """They use the shell function of docs/systemd.md, and publish what a killed collector left in the journal."""
    function = re.search(r"^as_collector\(\) \{\n.*?^\}\n", PAGE, re.MULTILINE | re.DOTALL)
    assert function is not None
    definition = function[0].replace("sudo ", "")

    def run(command: str) -> str:
        return unit.host.run("sh", "-c", definition + command).stdout

    doctor, expire, recover = "as_collector doctor", "as_collector expire --older-than 90d", "as_collector recover"
    assert {doctor, expire, recover} == set(re.findall(r"`(as_collector .*?)`", RUNBOOK + OPERATIONS + PAGE))
    owner = unit.host.run("stat", "--format=%u", f"/proc/{unit.main_pid()}").stdout.strip()
    assert f"/var/lib/collector is writable and belongs to user {owner}" in run(doctor)
    assert "deleted 0 parts\n" == run(expire)
    unit.drop_in("stays-dead", "[Service]\nRestart=no\n")
    assert 201 == unit.post()
    unit.host.run("systemctl", "kill", "--signal=KILL", "collector")
    wait_until(lambda: unit.host.show("collector", "ActiveState") == "failed", "it is dead")
    assert re.search(r" segments?; 0 left\n$", run(recover))
    assert unit.settled() is None


def test_analyst_can_read_the_events_and_nothing_else(unit: Unit) -> None:
    """The group gets access with the commands of docs/systemd.md."""
    host = unit.host
    for _, *command in commands("Let analysts read the events"):
        host.run(*command)
    assert 201 == unit.post()
    unit.systemctl("restart")  # flushes, and does not unmount
    assert "active" == host.show("srv-collector-events.mount", "ActiveState")
    analyst = ("setpriv", "--reuid=nobody", "--clear-groups", "--regid=analysts")
    found = host.run(*analyst, "find", "/srv/collector/events", "-name", "*.parquet").stdout.split()
    assert found
    host.run(*analyst, "test", "-r", found[0])
    assert 0 != host.run(*analyst, "rm", found[0], check=False).returncode
    assert 0 != host.run(*analyst, "ls", DATA_DIR, check=False).returncode
    stranger = ("setpriv", "--reuid=nobody", "--clear-groups", "--regid=nogroup")
    assert 0 != host.run(*stranger, "ls", "/srv/collector/events", check=False).returncode
    unit.systemctl("disable", "--quiet", "--now", "srv-collector-events.mount")


CUT_OFF = {"ConnectionResetError", "IncompleteReadError"}


def killed(unit: Unit, number: signal.Signals) -> None:
    """Send the signal to the main process, and wait until systemd has restarted it."""
    victim, restarts = unit.main_pid(), unit.restarts()
    unit.host.run("kill", f"-{number.value}", str(victim))
    wait_until(lambda: unit.restarts() == restarts + 1, "systemd restarts it", RESTARTED_S)
    wait_until(lambda: unit.host.show("collector", "ActiveState") == "active", "it is ready", RESTARTED_S)
    assert victim != unit.main_pid()


def report(what: str, clients: Seen) -> None:
    """Print the clients' outcomes, for `pytest -s`."""
    print(f"{what}: own {dict(clients.own)}, staying {dict(clients.staying)}, slowest {clients.slowest_s:.2f} s")
