"""The collector behind nginx, Caddy and HAProxy, each configured by its block in docs/deployment.md."""

import json
import shutil
import signal
import socket
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.config import DEFAULT_SCRIPT_PATH
from collector.edge.responses import PIXEL
from collector.edge.script import current, pinned_name
from collector.sender_keys import fingerprint
from tests.crash.conftest import need
from tests.edge.wire import head, request
from tests.network.proxies import (
    BURST,
    CLIENTS,
    END_S,
    HOST,
    ORIGIN,
    PROGRAMS,
    UNIX_SOCKET,
    Proxied,
    block,
    caddy,
    caddy_with_cookies,
    certificate,
    free_port,
    haproxy,
    nginx,
    nginx_over_unix,
    nginx_with_cookies,
    proxied,
    replaced,
)
from tests.network.test_attacks import BROKEN
from tests.support import body
from tests.system.process import COMMAND, Answer, Process, environment, listening, serving, wait_until

KEY = "ck_test"
SMUGGLING = (
    "both lengths",
    "both lengths, chunks first",
    "two lengths",
    "a list of lengths",
    "a length with a sign",
    "chunked and more",
    "almost chunked",
    "chunk size not a number",
    "chunk size beyond 64 bits",
    "NUL in a value",
    "two hosts",
)


@pytest.fixture(
    params=[nginx, nginx_over_unix, caddy, haproxy], ids=["nginx", "nginx over a Unix socket", "caddy", "haproxy"]
)
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    name = request.param.__name__.partition("_")[0]
    need(shutil.which(name, path=PROGRAMS) is not None, name)
    need(shutil.which("openssl") is not None, "openssl")
    documented = tomllib.loads(block("toml"))
    if request.param is nginx_over_unix:  # beside the port, to which the test connects without the proxy
        over_unix = tomllib.loads(block("toml", number=1))["server"]
        assert ("", UNIX_SOCKET) == (over_unix.pop("host"), over_unix.pop("unix_socket"))
        documented["server"] |= over_unix | {"unix_socket": "collector.sock"}
    with serving(
        tmp_path,
        {"demo": {}, "hidden": {}, "keyed": {"keys": [fingerprint(KEY)]}},
        server=documented["server"] | {"port": 0},
        admin=documented["admin"] | {"port": 0},
        privacy={"client_ip": "full"},
        rate_limit={"requests_per_minute": 1, "burst": BURST},
    ) as process:
        port = free_port()
        trust = certificate(tmp_path)
        with proxied(tmp_path, request.param(tmp_path, urlsplit(process.url).netloc, port), port):
            yield Proxied(process, port, trust)


def test_each_client_has_its_real_address_and_its_own_rate_limit(proxy: Proxied) -> None:
    """A forged X-Forwarded-For changes neither, and a client over its limit does not affect others."""
    forged = b"X-Forwarded-For: 203.0.113.7, 127.0.0.1"
    for _ in range(BURST):
        assert 201 == proxy.post(forged).status
    answer = proxy.post(b"X-Forwarded-For: 203.0.113.8", b"Origin: " + ORIGIN.encode())
    assert (429, ORIGIN) == (answer.status, answer.headers["Access-Control-Allow-Origin"])
    assert int(answer.headers["Retry-After"]) > 0
    assert 201 == proxy.post(client=CLIENTS[1]).status
    assert 0 == proxy.process.stop()
    assert BURST * [CLIENTS[0]] + [CLIENTS[1]] == [row["client_ip"] for row in proxy.process.rows()]


def headers_of(answer: Answer) -> set[tuple[str, str]]:
    """Return the headers, except those that a proxy sets itself. HAProxy sends names in lower case."""
    headers = ((name.lower(), value) for name, value in answer.headers.items())
    return {(name, value) for name, value in headers if name not in ("date", "server")}


def test_responses_pass_unchanged_and_only_public_paths_are_exposed(proxy: Proxied) -> None:
    """Errors also keep their CORS headers, so that a page can read them."""
    origin = b"Origin: " + ORIGIN.encode()
    direct = proxy.process.post(headers={"Origin": ORIGIN})
    sent = {
        201: request(body(), origin),
        202: request(b"{", origin),
        404: request(body(), origin, site="nobody"),
        415: request(body(), origin, b"Content-Encoding: br"),
        413: request(body().ljust(70_000), origin),
    }
    for status, data in sent.items():
        answer = proxy.ask(data)
        assert (status, ORIGIN) == (answer.status, answer.headers["Access-Control-Allow-Origin"])
        assert json.loads(answer.body)["message"]
        if status == 201:
            assert headers_of(direct) <= headers_of(answer)
    preflight = proxy.ask(head(origin, b"Access-Control-Request-Method: POST", method="OPTIONS"))
    assert (204, "86400") == (preflight.status, preflight.headers["Access-Control-Max-Age"])
    for path in ("/metrics", "/healthz", "/"):
        answer = proxy.ask(head(method="GET", target=path))
        assert (404, None) == (answer.status, answer.headers["Access-Control-Allow-Origin"])


def full_batch() -> bytes:
    """The largest batch. It leaves one token in the bucket."""
    return b"\n".join([body(file_name="x" * 60_000)] * (BURST - 1)).ljust(4 << 20)


def test_largest_batch_passes(proxy: Proxied) -> None:
    assert 201 == proxy.ask(request(full_batch(), target="/public/demo/batch")).status


@pytest.mark.parametrize("proxy", [nginx, nginx_over_unix], indirect=True)
def test_batch_over_the_limit_gets_its_response_from_the_collector(proxy: Proxied) -> None:
    """So pages can read it. Caddy and HAProxy may close the connection while the batch is sent."""
    answer = proxy.ask(request(full_batch() + b" ", b"Origin: " + ORIGIN.encode(), target="/public/demo/batch"))
    assert (413, ORIGIN) == (answer.status, answer.headers["Access-Control-Allow-Origin"])


def test_key_of_a_sender_passes(proxy: Proxied) -> None:
    """With it, a batch may have more events than tokens."""
    batch = b"\n".join([body()] * (BURST + 1))
    for line, status in ((b"Authorization: Bearer " + KEY.encode(), 201), (b"X-Key: none", 429)):
        assert status == proxy.ask(request(batch, line, target="/public/keyed/batch")).status


def test_script_is_served_as_the_collector_sends_it(proxy: Proxied) -> None:
    """The pinned name is what a page with an integrity hash loads."""
    for name in (DEFAULT_SCRIPT_PATH, pinned_name(DEFAULT_SCRIPT_PATH, current())):
        path = f"/public/demo/{name}"
        for encoding in ("br", "gzip", "identity"):
            answer = proxy.ask(head(b"Accept-Encoding: " + encoding.encode(), method="GET", target=path))
            is_same = answer.body == current().content[encoding]  # pytest would take minutes to show the difference
            assert (200, True) == (answer.status, is_same)
        assert "*" == answer.headers["Access-Control-Allow-Origin"]


def test_pixel_counts_once_with_its_query_and_the_address_of_its_client(proxy: Proxied) -> None:
    """A mail proxy asks for the head first. No cache on the way keeps the image."""
    target = "/public/demo/p.gif?page_path=/mail%2Fmay&utm_source=Gr%C3%B6%C3%9Fe+%26%20more&page_title=%FF"
    with proxy.connect(CLIENTS[1]) as connection:
        connection.sendall(head(b"Connection: close", method="HEAD", target=target))
        response = HTTPResponse(connection, method="HEAD")
        response.begin()
        assert (200, "43", b"") == (response.status, response.headers["Content-Length"], response.read())
    for _ in range(2):
        answer = proxy.ask(head(b"Referer: https://shop.example/", method="GET", target=target), CLIENTS[1])
        assert (200, "image/gif", "no-store", PIXEL) == (
            answer.status,
            answer.headers["Content-Type"],
            answer.headers["Cache-Control"],
            answer.body,
        )
    assert 0 == proxy.process.stop()
    expected = ("/mail/may", "Größe & more", "\ufffd", CLIENTS[1])
    names = ("page_path", "utm_source", "page_title", "client_ip")
    assert 2 * [expected] == [tuple(row[name] for name in names) for row in proxy.process.rows()]


def test_proxy_keeps_its_connection_to_the_collector(proxy: Proxied) -> None:
    """Clients that connect one after the other share one connection, which stays open."""
    for number in range(2 * BURST):
        assert 201 == proxy.post(client=CLIENTS[number % 3]).status
    assert 1 == proxy.process.metrics().value("collector_connections")


@contextmanager
def started_again(folder: Path) -> Iterator[Process]:
    """Another collector with the configuration that is in the folder."""
    log_file = folder / "stderr"
    with log_file.open("wb") as log:
        command = [*COMMAND, "serve", "--config", str(folder / "collector.toml")]
        popen = subprocess.Popen(
            command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield Process(popen, folder, *listening(popen, log_file))
    finally:
        popen.kill()
        popen.wait(END_S)


@pytest.mark.parametrize("proxy", [nginx, nginx_over_unix], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_collector_behind_nginx_can_be_restarted(proxy: Proxied, tmp_path: Path, number: signal.Signals) -> None:
    """In between, nginx answers 502. Then its requests reach the next collector, at the same port or path."""
    assert 201 == proxy.post(data=body(session_id="before")).status
    proxy.process.send_signal(number)
    proxy.process.exit_code()
    assert 502 == proxy.post(data=body(session_id="between")).status
    file = tmp_path / "collector.toml"
    port = urlsplit(proxy.process.url).port
    file.write_text(file.read_text().replace("port = 0", f"port = {port}", 1))
    with started_again(tmp_path) as process:
        wait_until(lambda: proxy.post(data=body(session_id="after")).status == 201, "the next collector answers")
        assert 0 == process.stop()
    stored = [row["session_id"] for row in proxy.process.rows()]
    assert ({"before", "after"}, 1) == (set(stored), stored.count("before"))


@pytest.mark.parametrize("proxy", [nginx, nginx_over_unix], indirect=True)
def test_nginx_logs_no_address_of_a_client(proxy: Proxied, tmp_path: Path) -> None:
    """Its default is to log every request; the documented block overrides that."""
    assert 201 == proxy.post().status
    assert "" == (tmp_path / "access.log").read_text()


def test_proxy_offers_http_2(proxy: Proxied) -> None:
    with proxy.connect(http2=True) as connection:
        assert "h2" == connection.selected_alpn_protocol()


@contextmanager
def balanced(folder: Path, check: str) -> Iterator[tuple[Proxied, Callable[[str], None]]]:
    """Run a collector behind HAProxy with that health check. Also yields a function that waits for a check result."""
    need(shutil.which("haproxy", path=PROGRAMS) is not None, "haproxy")
    folder.mkdir()
    with serving(folder) as process:
        port = free_port()
        trust = certificate(folder)
        command = haproxy(folder, urlsplit(process.url).netloc, port, every="50ms")
        config = folder / "haproxy.cfg"
        site = replaced(config.read_text(), {"option httpchk GET /healthz": check})
        config.write_text(f"global\n    stats socket {folder}/stats\n{site}")

        def status() -> str:
            with socket.socket(socket.AF_UNIX) as stats:
                stats.connect(str(folder / "stats"))
                stats.sendall(b"show stat\n")
                head, *lines = b"".join(iter(lambda: stats.recv(1 << 16), b"")).decode().splitlines()
            names = head.removeprefix("# ").split(",")
            rows = [dict(zip(names, line.split(","), strict=False)) for line in lines]
            (server,) = [row for row in rows if row.get("svname") == "local"]
            return f"{server['status']} {server['check_status']} {server['check_code']}"

        with proxied(folder, command, port):
            yield Proxied(process, port, trust), lambda outcome: wait_until(lambda: status() == outcome, outcome)


def test_haproxy_stops_sending_while_events_are_refused(tmp_path: Path) -> None:
    """The documented check fails while data_dir is missing. HAProxy's default check does not work: it gets a 404."""
    with balanced(tmp_path / "1", "option httpchk GET /healthz") as (proxy, checked):
        checked("UP L7OK 200")
        assert 201 == proxy.post().status
        proxy.process.data_dir.rename(tmp_path / "elsewhere")
        checked("DOWN L7STS 503")
        assert (503, None) == ((answer := proxy.post()).status, answer.headers["Access-Control-Allow-Origin"])
        (tmp_path / "elsewhere").rename(proxy.process.data_dir)
        checked("UP L7OK 200")
        assert 201 == proxy.post().status
    with balanced(tmp_path / "2", "option httpchk") as (_, checked):
        checked("DOWN L7STS 404")


def test_haproxy_drops_cookies_and_forged_addresses(tmp_path: Path) -> None:
    """The collector does not need a page's cookies, and they could exceed its limit for heads."""
    need(shutil.which("haproxy", path=PROGRAMS) is not None, "haproxy")
    trust, port = certificate(tmp_path), free_port()
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(END_S)
        command = haproxy(tmp_path, f"127.0.0.1:{upstream.getsockname()[1]}", port)
        with proxied(tmp_path, command, port):
            plain = socket.create_connection(("127.0.0.1", port), timeout=END_S, source_address=(CLIENTS[0], 0))
            with trust.wrap_socket(plain, server_hostname=HOST) as client:
                forged = [b"X-Forwarded-For: 203.0.113.7", b"X-Forwarded-For: 203.0.113.8"]
                client.sendall(request(body(), b"Cookie: a=b", *forged, b"Cookie: c=d"))
                received = b""
                while not received.startswith(b"POST "):  # a health check may arrive first
                    connection, _ = upstream.accept()
                    with connection:
                        received = connection.recv(1 << 16)
                        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    lines = received.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert [] == [line for line in lines if line.startswith(b"cookie")]
    assert [b"x-forwarded-for: " + CLIENTS[0].encode()] == [line for line in lines if line.startswith(b"x-forwarded")]


def cookies(number: int) -> list[str]:
    """Make cookies of 3,000 bytes. HTTP/2 sends them as separate fields, and a proxy joins them into one line."""
    return [f"Cookie: c{n}={'c' * 2_997}" for n in range(number)]


@pytest.mark.parametrize("proxy", [nginx, caddy, nginx_with_cookies, caddy_with_cookies], indirect=True)
def test_events_with_30_kb_of_cookies_are_stored(proxy: Proxied) -> None:
    """Both if the proxy drops cookies, as documented, and if it forwards them."""
    need(shutil.which("curl") is not None, "curl")
    assert [201, 201, 201] == [proxy.post_over_http_2(*cookies(number))[0] for number in (0, 3, 10)]
    assert 201 == proxy.post(b"Cookie: " + b"; ".join(line[8:].encode() for line in cookies(10))).status


@pytest.mark.parametrize("proxy", [nginx_with_cookies, caddy_with_cookies], indirect=True)
def test_cookies_over_the_limit_get_a_431_that_the_page_can_read(proxy: Proxied) -> None:
    need(shutil.which("curl") is not None, "curl")
    status, answer = proxy.post_over_http_2(*cookies(12))
    assert 431 == status
    assert "collect-reason: too_large\r\n" in answer
    assert f"access-control-allow-origin: {ORIGIN}\r\n" in answer
    page = proxy.process.metrics()
    assert {"too_large": 1} == page.by("reason", "collector_dropped_events_total", site="demo")
    assert 201 == proxy.post_over_http_2(*cookies(3))[0]


@pytest.mark.parametrize("proxy", [nginx, caddy], indirect=True)
@pytest.mark.parametrize(
    "line",
    [
        "Referer: https://shop.example/?" + 7_900 * "r",
        "X-Forwarded-For: " + 900 * "1.1.1.1,",
        "Sec-CH-UA: " + 500 * '"Brand";v="1", ',
        "User-Agent: " + 7_900 * "u",
    ],
    ids=lambda line: line.partition(":")[0],
)
def test_events_with_other_long_headers_are_stored(proxy: Proxied, line: str) -> None:
    need(shutil.which("curl") is not None, "curl")
    assert 201 == proxy.post_over_http_2(line)[0]


@pytest.mark.parametrize("proxy", [nginx, nginx_over_unix], indirect=True)
def test_nothing_is_smuggled_through(proxy: Proxied) -> None:
    for attack in SMUGGLING:
        assert proxy.received(BROKEN[attack][0]), attack
        assert 0 == proxy.process.metrics().value("collector_received_events_total", site="hidden"), attack
    assert 201 == proxy.post(client=CLIENTS[1]).status
    assert proxy.process.metrics().value("collector_received_events_total", site="demo") > 0, "the metric counts"
