"""`collector import`, from the command line to a server that answers from a script."""

import gzip
import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web

from collector import VERSION
from collector.cli.importing import client, command, sender
from collector.cli.importing.batches import Limits
from tests.cli.importing.server import Answer, Received, Scripted, dropped, lost, numbered, refused, scripted, stored
from tests.cli.in_process import Capture, run
from tests.support import body

KEY = "ck_test"
NOTICE = (
    "collector: without --key-file, received_at, client_ip and user_agent of the events are ignored, and the rate "
    "limit applies\n"
)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted() as started:
        yield started


@pytest.fixture(autouse=True)
def same_signal_handlers() -> Iterator[None]:
    """A command that ends ignores stop signals from then on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two events a batch."""
    monkeypatch.setattr(command, "LIMITS", Limits(events=2, size_bytes=1_000))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(f"{KEY}\n")
    return file


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Five events."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"\n".join(numbered(5)) + b"\n")
    return file


def importing(file: Path | str, server: Scripted, *more: str | Path) -> int:
    return run("import", file, "--site", "demo", "--url", server.url, *more)


def test_file_is_sent_in_batches_with_a_key_each(
    small_batches: None, events: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    assert 0 == importing(events, server, "--key-file", key_file)
    assert ("", "5 of 5 events stored\n") == capsys.readouterr()
    assert [numbered(2), numbered(2, 3), numbered(1, 5)] == server.bodies()
    assert 3 == len(set(server.keys()))
    first = server.received[0]
    assert ("POST", "/public/demo/batch") == (first.method, first.path)
    assert {
        "Authorization": f"Bearer {KEY}",
        "Content-Type": "application/x-ndjson",
        "User-Agent": f"collector-import/{VERSION}",
    }.items() <= first.headers.items()


def test_run_that_is_repeated_sends_the_same_keys(
    small_batches: None, events: Path, server: Scripted, capsys: Capture
) -> None:
    assert 0 == importing(events, server) == importing(events, server)
    assert server.keys()[:3] == server.keys()[3:]
    assert 0 == importing(events, server, "--from-line", "3")
    assert server.keys()[1:3] == server.keys()[6:]


def test_without_a_key_it_says_once_what_is_ignored(events: Path, server: Scripted, capsys: Capture) -> None:
    assert 0 == importing(events, server)
    assert ("", f"{NOTICE}5 of 5 events stored\n") == capsys.readouterr()
    assert "Authorization" not in server.received[0].headers


def test_url_may_have_a_path(events: Path, server: Scripted, capsys: Capture) -> None:
    assert 0 == run("import", events, "--site", "demo", "--url", f"{server.url}/stats/")
    assert "/stats/public/demo/batch" == server.received[0].path


@pytest.mark.parametrize("status", [202, 422])
def test_lines_that_were_not_stored_are_printed(
    status: int, small_batches: None, tmp_path: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    """By the numbers of the lines in the file, blank ones included."""
    file = tmp_path / "events"
    file.write_bytes(b"\r\n\r\n".join(numbered(4)))
    server.script = [stored, lambda received: dropped(received, 1, status=status)]
    assert 1 == importing(file, server, "--key-file", key_file)
    assert ("7: invalid: bad 1\n", "3 of 4 events stored\n") == capsys.readouterr()
    assert [numbered(2), numbered(2, 3)] == server.bodies()


def test_lines_past_the_hundredth_error_are_printed_without_a_reason(
    tmp_path: Path, server: Scripted, capsys: Capture
) -> None:
    file = tmp_path / "events"
    file.write_bytes(b"\n".join(numbered(103)))
    server.script = [lambda received: dropped(received, *range(1, 103))]
    assert 1 == importing(file, server)
    out, err = capsys.readouterr()
    assert [f"{index + 1}: invalid: bad {index}" for index in range(1, 101)] == out.splitlines()[:100]
    assert ["102: not stored", "103: not stored"] == out.splitlines()[100:]
    assert err.endswith("\n1 of 103 events stored\n")


def test_message_of_the_server_stays_on_one_line(events: Path, server: Scripted, capsys: Capture) -> None:
    errors = [{"index": 0, "reason": "invalid", "message": "a\n\x1b[2J"}]
    server.script = [lambda received: dropped(received, 0, errors=errors)]
    assert 1 == importing(events, server)
    assert "1: invalid: a\\n\\x1b[2J\n" == capsys.readouterr().out


TRY_AGAIN: dict[str, tuple[Answer, str]] = {
    "busy": (refused(503, "Busy", Retry_After="0"), "503 Service Unavailable: Busy"),
    "limited": (refused(429, "Too many requests", Retry_After="0"), "429 Too Many Requests: Too many requests"),
    "date": (
        refused(503, "Busy", Retry_After="Fri, 01 Jan 2021 00:00:00 GMT"),
        "503 Service Unavailable: Busy",
    ),
    "error": (refused(500, "Oops"), "500 Internal Server Error: Oops"),
    "proxy": (lambda _: web.Response(status=502, text="<html>Bad gateway"), "502 Bad Gateway"),
    "timeout": (refused(408, "Slow"), "408 Request Timeout: Slow"),
    "lost": (lost, "no answer from URL: Server disconnected"),
}


@pytest.mark.parametrize("name", TRY_AGAIN)
def test_batch_is_sent_again_with_the_same_key(
    name: str, small_batches: None, events: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    answer, why = TRY_AGAIN[name]
    server.script = [stored, answer, answer]
    assert 0 == importing(events, server, "--key-file", key_file)
    assert [numbered(2), *([numbered(2, 3)] * 3), numbered(1, 5)] == server.bodies()
    assert 1 == len(set(server.keys()[1:4]))
    out, err = capsys.readouterr()
    first, second, last = err.splitlines()
    assert ("", "5 of 5 events stored") == (out, last)
    why = why.replace("URL", server.url.removeprefix("http://"))
    assert first == second == f"collector: lines 3 to 4: {why}; trying again in 0.0 s"


def test_address_where_nobody_listens_is_named(events: Path, capsys: Capture) -> None:
    with scripted() as gone:
        pass
    assert 1 == importing(events, gone, "--patience", "0.05")
    *_, first, why, stopped = capsys.readouterr().err.splitlines()
    refused = f"collector: lines 1 to 5: no answer from {gone.url.removeprefix('http://')}: Connection refused; "
    assert first.startswith(f"{refused}trying again in 0.0 s")
    assert f"{refused}no request of this import was answered; is --url right?" == why
    assert "stopped: 0 events stored and 0 not stored before line 1; go on with --from-line 1" == stopped


def test_wait_that_is_longer_than_the_patience_is_not_begun(
    small_batches: None, events: Path, server: Scripted, capsys: Capture
) -> None:
    server.script = [stored, refused(503, "Full", Retry_After="601")]
    assert 1 == importing(events, server)
    assert (
        "collector: lines 3 to 4: 503 Service Unavailable: Full; the next try would be in 601.0 s, but --patience is "
        "600 s\nstopped: 2 events stored and 0 not stored before line 3; go on with --from-line 3\n"
    ) == capsys.readouterr().err.removeprefix(NOTICE)


def test_server_that_never_answers_is_a_timeout(
    events: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    released = threading.Event()

    def stuck(_: Received) -> None:
        released.wait(10)

    monkeypatch.setattr(command, "REQUEST_S", 0.05)
    server.script = [stuck]
    try:
        assert 1 == importing(events, server, "--patience", "0.04")
    finally:
        released.set()
    address = server.url.removeprefix("http://")
    assert f"lines 1 to 5: no answer from {address} within 0.04 s" in capsys.readouterr().err


def test_host_that_does_not_connect_is_a_timeout(
    events: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Linux ignores whoever would connect while the queue of connections is full."""
    monkeypatch.setattr(client, "CONNECT_S", 0.05)
    with socket.socket() as full, ExitStack() as queue:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        assert 1 == run(
            "import", events, "--site", "demo", "--url", f"http://127.0.0.1:{address[1]}", "--patience", "0.06"
        )
    assert f"lines 1 to 5: no connection to 127.0.0.1:{address[1]} within 0.05 s" in capsys.readouterr().err


NOT_FOUND: dict[str, tuple[Answer, str]] = {
    "site": (refused(404, "Site not found", Collect_Reason="unknown_site"), "no site demo at URL"),
    "path": (
        refused(404, "Not found", Collect_Reason="not_found"),
        "no collector at URL: URL/public/demo/batch: 404 Not Found: Not found",
    ),
    "page": (
        lambda _: web.Response(status=404, text="<html>"),
        "no collector at URL: URL/public/demo/batch: 404 Not Found",
    ),
}


@pytest.mark.parametrize("name", NOT_FOUND)
def test_site_or_path_that_does_not_exist_is_named_with_the_url(
    name: str, events: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    answer, why = NOT_FOUND[name]
    server.script = [answer]
    assert 1 == importing(events, server, "--key-file", key_file)
    assert f"collector: {why.replace('URL', server.url)}" == capsys.readouterr().err.splitlines()[0]


HOPELESS: dict[str, tuple[Answer, str]] = {
    "key": (refused(401, "Unknown key"), "401 Unauthorized: Unknown key"),
    "forbidden": (refused(403, "Origin not allowed"), "403 Forbidden: Origin not allowed"),
    "method": (refused(405, "Use GET"), "405 Method Not Allowed: Use GET"),
    "type": (refused(415, "No"), "415 Unsupported Media Type: No"),
    "conflict": (refused(409, "No"), "409 Conflict: No"),
    "unknown status": (lambda _: web.Response(status=499), "499"),
    "redirect": (
        lambda _: web.Response(status=301, headers={"Location": "https://a.example/public/demo/batch"}),
        "301 Moved Permanently: redirects are not followed; --url should be the address that it redirects to: "
        "https://a.example/public/demo/batch",
    ),
    "other server": (lambda _: web.Response(text="hello"), "the answer is not a collector's: 200 OK"),
    "page with 201": (
        lambda _: web.Response(text="<html>", status=201),
        "the answer is not a collector's: 201 Created",
    ),
    "tracking": (
        lambda _: web.json_response({"message": "Tracking is disabled for this site"}, status=202),
        "the answer is not a collector's: 202 Accepted: Tracking is disabled for this site",
    ),
    "fewer": (
        lambda _: web.json_response({"message": "x", "stored": 1}, status=201),
        "the answer does not fit 2 events: 1 stored, 0 not stored, 0 explained: 201 Created: x",
    ),
    "no such index": (
        lambda received: dropped(received, 2),
        "the answer does not fit 2 events: 1 stored, 1 not stored, 1 explained: 202 Accepted: Some events were not "
        "stored: bad 2",
    ),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_answer_that_would_not_change_stops_the_import(
    name: str, small_batches: None, events: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    answer, why = HOPELESS[name]
    server.script = [stored, answer]
    assert 1 == importing(events, server, "--key-file", key_file)
    assert 2 == len(server.received)
    assert (
        "",
        f"collector: lines 3 to 4: {why}\n"
        "stopped: 2 events stored and 0 not stored before line 3; go on with --from-line 3\n",
    ) == capsys.readouterr()


TOO_MUCH: dict[str, tuple[Answer, str]] = {
    "bytes": (refused(413, "Too large"), "too_large: 413 Request Entity Too Large: Too large"),
    "proxy": (lambda _: web.Response(status=413, text="<html>"), "too_large: 413 Request Entity Too Large"),
    "events": (
        refused(429, "Split the batch: the bucket holds 1"),
        "rate_limited: 429 Too Many Requests: Split the batch: the bucket holds 1",
    ),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_batch_that_is_too_much_is_halved(name: str, events: Path, server: Scripted, capsys: Capture) -> None:
    """A single event that is too much is not stored."""
    answer, why = TOO_MUCH[name]
    server.script = [answer, stored, answer, answer]
    assert 1 == importing(events, server)
    whole = numbered(5)
    assert [whole, whole[:2], whole[2:], whole[2:3], whole[3:]] == server.bodies()
    assert 5 == len(set(server.keys()))
    assert (f"3: {why}\n", f"{NOTICE}4 of 5 events stored\n") == capsys.readouterr()


def test_number_of_events_that_is_too_much_is_not_sent_again(
    small_batches: None, events: Path, server: Scripted, capsys: Capture
) -> None:
    """The bucket's size is the same for the next batch, and each request costs a token."""
    server.script = [refused(429, "split it")]
    assert 0 == importing(events, server)
    assert [2, 1, 1, 1, 1, 1] == [len(lines) for lines in server.bodies()]


def test_size_that_is_too_much_is_not_sent_again(
    small_batches: None, tmp_path: Path, server: Scripted, capsys: Capture
) -> None:
    """A smaller batch is sent whole. It may fit."""
    file = tmp_path / "events"
    small = numbered(5)
    large = [body(page_path=f"/{number}", page_title="x" * 100) for number in range(4)]
    file.write_bytes(b"\n".join([*large, *small]))
    server.script = [refused(413, "Too large")]
    assert 0 == importing(file, server)
    assert [large[:2], *([line] for line in large), small[:2], small[2:4], small[4:]] == server.bodies()


def test_line_that_is_too_large_or_an_array_is_reported_and_not_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    """As its first line, an array would turn a batch into one."""
    monkeypatch.setattr(command, "LIMITS", Limits(events=2, size_bytes=200))
    file = tmp_path / "events"
    lines = numbered(2)
    file.write_bytes(b"\n".join([lines[0], b"x" * 1_000, b' [{"a": 1}]', lines[1]]))
    assert 1 == importing(file, server, "--key-file", key_file)
    assert [[lines[0]], [lines[1]]] == server.bodies()
    assert (
        "2: too_large: line is longer than 199 bytes, the most that a batch can have\n"
        "3: invalid: line is not one JSON object\n",
        "2 of 4 events stored\n",
    ) == capsys.readouterr()


def test_json_array_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    file = tmp_path / "events.json"
    file.write_bytes(b"\xef\xbb\xbf\n  [\n{}\n]")
    assert 1 == importing(file, server, "--key-file", key_file)
    assert (
        "",
        f"collector: {file}: is a JSON array, but should have one JSON object per line; `jq -c '.[]' FILE` converts "
        "it\n",
    ) == capsys.readouterr()
    assert [] == server.received


@pytest.mark.parametrize("is_gzip", [False, True])
def test_standard_input_is_read(
    is_gzip: bool, tmp_path: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    plain = b"\n".join(numbered(3))
    (tmp_path / "events").write_bytes(gzip.compress(plain) if is_gzip else plain)
    with (tmp_path / "events").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert 0 == importing("-", server)
    assert [numbered(3)] == server.bodies()


def test_broken_gzip_is_sent_up_to_the_break(
    small_batches: None, tmp_path: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    """Three lines are complete. The line that was cut is not sent."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as stream:
        stream.write(b"\n".join([*numbered(3), b'{"cut']))
        stream.flush()
        cut_at = packed.tell()
        stream.write(os.urandom(1_000))
    file = tmp_path / "events.gz"
    file.write_bytes(packed.getvalue()[:cut_at])
    assert 1 == importing(file, server, "--key-file", key_file)
    assert [numbered(2), numbered(1, 3)] == server.bodies()
    assert (
        "",
        f"collector: {file}: is broken gzip: Compressed file ended before the end-of-stream marker was reached\n"
        "stopped: 3 events stored and 0 not stored before line 4; go on with --from-line 4\n",
    ) == capsys.readouterr()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\x1f\x8bnonsense", "is broken gzip: Unknown compression method"),
    ],
)
def test_file_that_cannot_be_read_exits_1(
    content: bytes | None, why: str, tmp_path: Path, key_file: Path, server: Scripted, capsys: Capture
) -> None:
    file = tmp_path / "events"
    if content is not None:
        file.write_bytes(content)
    assert 1 == importing(file, server, "--key-file", key_file)
    assert ("", f"collector: {file}: {why}\n") == capsys.readouterr()


def test_server_without_tls_stops_the_import(events: Path, server: Scripted, capsys: Capture) -> None:
    url = server.url.replace("http", "https")
    assert 1 == run("import", events, "--site", "demo", "--url", url)
    why, stopped = capsys.readouterr().err.removeprefix(NOTICE).splitlines()
    assert why.startswith("collector: no secure connection: Cannot connect to host 127.0.0.1:")
    assert "stopped: 0 events stored and 0 not stored before line 1; go on with --from-line 1" == stopped


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example"])
def test_host_that_is_no_name_stops_the_import(host: str, events: Path, capsys: Capture) -> None:
    assert 1 == run("import", events, "--site", "demo", "--url", f"http://{host}")
    why, _ = capsys.readouterr().err.removeprefix(NOTICE).splitlines()
    assert f"collector: --url: has a host that cannot be looked up: {host}" == why


def test_empty_file_exits_0(tmp_path: Path, key_file: Path, server: Scripted, capsys: Capture) -> None:
    (tmp_path / "empty").write_bytes(b"\n \n")
    assert 0 == importing(tmp_path / "empty", server, "--key-file", key_file)
    assert ("", "0 of 0 events stored\n") == capsys.readouterr()
    assert [] == server.received


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("waits", ["for an answer", "to try again"])
def test_stop_signal_names_the_line_to_go_on_with(
    waits: str,
    number: int,
    code: int,
    small_batches: None,
    events: Path,
    key_file: Path,
    server: Scripted,
    capsys: Capture,
) -> None:
    """The batch without an answer is sent again by the next run, with the same key."""
    released = threading.Event()

    def stop(received: Received) -> web.StreamResponse | None:
        os.kill(os.getpid(), number)
        if waits == "to try again":
            return refused(503, "Busy", Retry_After="100")(received)
        released.wait(10)
        return None

    server.script = [lambda received: dropped(received, 0), stop]
    try:
        assert code == importing(events, server, "--key-file", key_file)
    finally:
        released.set()
    out, err = capsys.readouterr()
    assert "1: invalid: bad 0\n" == out
    assert err.endswith("stopped: 1 event stored and 1 not stored before line 3; go on with --from-line 3\n")
    assert signal.SIG_IGN == signal.getsignal(number)
    assert 0 == importing(events, server, "--key-file", key_file, "--from-line", "3")
    assert [numbered(2), *([numbered(2, 3)] * 2), numbered(1, 5)] == server.bodies()
    assert server.keys()[1] == server.keys()[2]


def test_batch_of_halves_is_begun_anew_after_a_stop(events: Path, server: Scripted, capsys: Capture) -> None:
    """From the second half on, the batches would have other lines, so other keys, and events could be stored twice."""
    server.script = [refused(413, "x"), stored, refused(401, "x"), refused(413, "x")]
    assert 1 == importing(events, server)
    assert capsys.readouterr().err.endswith(
        "stopped: 0 events stored and 0 not stored before line 1; go on with --from-line 1\n"
    )
    assert 0 == importing(events, server, "--from-line", "1")
    assert server.keys()[:3] == server.keys()[3:]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--site", "a b"], "--site: a site id is 1 to 64 characters out of A-Z a-z 0-9 _ -"),
        (["--site", "demo", "--url", "a.example"], '--url: should be "https://host", or "http://host:port/path"; got '),
        ([], "the following arguments are required: --site"),
        (["--site", "demo", "--from-line", "0"], "argument --from-line: should be a line number from 1, got '0'"),
        (["--site", "demo", "--patience", "nan"], "argument --patience: should be a number of seconds above 0"),
        (["--site", "demo", "--patience", "x"], "argument --patience: should be a number of seconds above 0"),
        (["--site", "demo", "--key", "ck_x"], "argument --key-file: "),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], why: str, events: Path, capsys: Capture) -> None:
    if "--key" in arguments:  # argparse takes it for --key-file: it is a file that does not exist, not a key
        assert 1 == run("import", events, *arguments)
        return
    assert 2 == run("import", events, *arguments)
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.1.2.3", True),
        ("http://[::1]:8080/x", True),
        ("http://LOCALHOST", True),
        ("http://192.168.0.1", False),
        ("https://a.example", False),
        ("https://localhost.example", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(url: str, is_here: bool) -> None:
    assert is_here == client.is_loopback(url)


def test_body_is_packed_for_another_machine(
    events: Path, server: Scripted, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The key is that of the same lines without gzip."""
    assert 0 == importing(events, server)
    monkeypatch.setattr(command, "is_loopback", lambda _: False)
    assert 0 == importing(events, server)
    plain, packed = server.received
    assert ("gzip", plain.body, plain.key) == (packed.headers["Content-Encoding"], packed.body, packed.key)
    assert int(packed.headers["Content-Length"]) < int(plain.headers["Content-Length"])
    assert "Content-Encoding" not in plain.headers
