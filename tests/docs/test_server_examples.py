"""The examples for servers, run as they stand against a real collector, and against one that fails.

PHP is not installed in CI. Where it is not, its example is not tested.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.config import Server
from collector.edge.batch import WAITING_MAX_BYTES
from collector.edge.batch_answer import MAX_ERRORS, MAX_EVENTS, MAX_KEY_CHARACTERS
from collector.edge.openapi import openapi
from collector.sender_keys import fingerprint
from tests.cli.importing.server import Scripted, dropped, lost, refused, scripted
from tests.crash.conftest import need
from tests.docs.tables import ROOT
from tests.docs.test_examples import blocks
from tests.support import body
from tests.system.process import Process, serving

HOST = "https://collector.example"
KEY = "ck_test"
SITES = {"example": {"keys": [fingerprint(KEY)], "allowed_origins": ["https://www.example.com"]}}
VISITOR = ("203.0.113.7", "Mozilla/5.0")
PAGE = (ROOT / "docs" / "sending-from-servers.md").read_text()
EXAMPLES = (ROOT / "docs" / "server-examples.md").read_text()
WITHIN_S = 30.0


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    with serving(tmp_path, SITES, privacy={"client_ip": "full"}) as started:
        yield started


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as started:
        yield started


@pytest.fixture(params=["python", "js", "php"])
def language(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    program = {"js": "node", "php": "php"}.get(name)
    if program is not None:
        need(shutil.which(program) is not None, program)
    return name


def run_example(language: str, folder: Path, url: str) -> subprocess.CompletedProcess[str]:
    """Run it with another address, and without the first waits between attempts."""
    (code,) = blocks(EXAMPLES, language)
    assert HOST in code
    code, changed = re.subn(r"2 ?\*\* ?\$?attempt", "0", code.replace(HOST, url))
    assert changed == 1
    suffix, command = {"python": ("py", sys.executable), "js": ("mjs", "node"), "php": ("php", "php")}[language]
    file = folder / f"example.{suffix}"
    file.write_text(code)
    # PHP takes the visitor from these, as it does in a web server.
    environment = os.environ | {"COLLECTOR_KEY": KEY, "REMOTE_ADDR": VISITOR[0], "HTTP_USER_AGENT": VISITOR[1]}
    return subprocess.run(
        [command, file], env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )


def run_shell(block: str, process: Process) -> str:
    need(shutil.which("curl") is not None, "curl")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.replace(HOST, process.url).replace("curl ", "curl --silent ")],
        cwd=process.folder,
        env=os.environ | {"COLLECTOR_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    ).stdout


def stored(process: Process) -> list[dict[str, object]]:
    assert 0 == process.stop()
    return process.rows("example")


def test_example_stores_an_event_of_a_visitor(language: str, tmp_path: Path, process: Process) -> None:
    done = run_example(language, tmp_path, process.url)
    assert (0, "", "1") == (done.returncode, done.stderr, done.stdout.split()[0])
    assert [VISITOR] == [(row["client_ip"], row["user_agent"]) for row in stored(process)]


def test_example_sends_a_batch_again_with_the_same_key(language: str, tmp_path: Path, server: Scripted) -> None:
    server.script = [lost, refused(503, "Full", Retry_After="0"), refused(502, "Bad gateway"), refused(408, "Late")]
    done = run_example(language, tmp_path, server.url)
    assert (0, "1") == (done.returncode, done.stdout.split()[0])
    assert 5 == len(server.received)
    assert 1 == len(set(server.keys()))
    assert 1 == len({request.body for request in server.received})


def test_example_waits_as_long_as_it_is_told(language: str, tmp_path: Path, server: Scripted) -> None:
    server.script = [refused(503, "Full", Retry_After="2")]
    started = time.monotonic()
    assert 0 == run_example(language, tmp_path, server.url).returncode
    assert time.monotonic() - started >= 2
    assert 2 == len(server.received)


@pytest.mark.parametrize("status", [202, 422])
def test_example_does_not_repeat_a_batch_that_was_judged(
    language: str, status: int, tmp_path: Path, server: Scripted
) -> None:
    server.script = [lambda received: dropped(received, 0, status=status)]
    done = run_example(language, tmp_path, server.url)
    assert (0, "0") == (done.returncode, done.stdout.split()[0])
    assert 1 == len(server.received)


@pytest.mark.parametrize("status", [401, 413])
def test_example_does_not_repeat_what_is_hopeless(language: str, status: int, tmp_path: Path, server: Scripted) -> None:
    server.script = [refused(status, "Not this one")]
    assert 0 != run_example(language, tmp_path, server.url).returncode
    assert 1 == len(server.received)


def test_curl_sends_an_event_on_behalf_of_a_visitor(process: Process) -> None:
    single, *_ = blocks(PAGE, "sh")
    assert "Event received" == json.loads(run_shell(single, process))["message"]
    assert [VISITOR] == [(row["client_ip"], row["user_agent"]) for row in stored(process)]


def test_curl_sends_a_batch(process: Process) -> None:
    _, array, *_ = blocks(PAGE, "sh")
    assert {"message": "Batch received", "stored": 2} == json.loads(run_shell(array, process))
    assert ["/", "/order"] == [row["page_path"] for row in stored(process)]


def test_curl_sends_a_file(process: Process) -> None:
    (process.folder / "events.ndjson").write_bytes(b"\n".join([body(), b"", body()]))
    _, _, file, _ = blocks(PAGE, "sh")
    assert {"message": "Batch received", "stored": 2} == json.loads(run_shell(file, process))
    assert 2 == len(stored(process))


def test_curl_sends_a_packed_file_once(process: Process) -> None:
    """The second time, the key is known."""
    (process.folder / "events.ndjson").write_bytes(b"\n".join([body(), b"", body()]))
    *_, packed = blocks(PAGE, "sh")
    answers = [json.loads(run_shell(packed, process)) for _ in range(2)]
    assert 2 * [{"message": "Batch received", "stored": 2}] == answers
    assert 2 == len(stored(process))


def test_answer_in_part_is_the_documented_one(process: Process) -> None:
    (documented,) = blocks(PAGE, "json")
    _, array, *_ = blocks(PAGE, "sh")
    events = json.loads(array.split("-d '")[1].split("'")[0])
    sent = json.dumps([events[0], events[0] | {"session_id": 1}, events[1]])
    answer = run_shell(f"curl {HOST}/public/example/batch -d '{sent}'", process)
    assert json.loads(documented) == json.loads(answer)


def test_answers_of_a_batch_are_those_of_openapi() -> None:
    table = PAGE.split("\n| response | when |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| ([^|]*)", table, re.MULTILINE)
    documented = {status for cell in cells for status in re.findall(r"\b\d{3}\b", cell)}
    assert set(openapi()["paths"]["/public/{siteId}/batch"]["post"]["responses"]) == documented


def test_limits_are_those_of_the_code() -> None:
    assert (10_000, 100, 128, 64 << 20) == (MAX_EVENTS, MAX_ERRORS, MAX_KEY_CHARACTERS, WAITING_MAX_BYTES)
    assert (4 << 20, 64 << 10, 10) == (Server().max_batch_bytes, Server().max_body_bytes, Server().body_timeout_s)
    for named in ("10,000 events", "the first 100 events", "of 1 to 128 characters", "64 MiB of batches", "(4 MiB)"):
        assert named in PAGE
    assert "`server.max_body_bytes` (64 KiB)" in PAGE
    assert "`server.body_timeout_s` (10 s)" in PAGE
