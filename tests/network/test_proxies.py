"""nginx, Caddy and HAProxy in front: the blocks of docs/deployment.md, with other ports and the test's certificate."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.crash.conftest import need
from tests.edge.wire import head, request
from tests.network.test_attacks import BROKEN
from tests.support import body
from tests.system.process import Answer, Process, serving, wait_until

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
HOST = "collector.example"
ORIGIN = "https://shop.example"
CLIENTS = ("127.0.0.21", "127.0.0.22", "127.0.0.23")
BURST = 12
END_S = 10
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"

SMUGGLING = (
    "both lengths",
    "both lengths, chunks first",
    "two lengths",
    "a list of lengths",
    "a length with a sign",
    "chunked and more",
    "almost chunked",
    "chunk size no number",
    "chunk size beyond 64 bits",
    "NUL in a value",
    "two hosts",
)

NGINX = """
daemon off;
master_process off;
user root;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {site}
}}
"""


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"{old} is not in the document"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True, slots=True)
class Proxied:
    """A collector, and where its proxy listens."""

    process: Process
    port: int
    trust: ssl.SSLContext

    def connect(self, client: str = CLIENTS[0], *, http2: bool = False) -> ssl.SSLSocket:
        self.trust.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=END_S, source_address=(client, 0))
        return self.trust.wrap_socket(plain, server_hostname=HOST)

    def ask(self, sent: bytes, client: str = CLIENTS[0]) -> Answer:
        """Send a request on a connection of its own."""
        with self.connect(client) as connection:
            connection.sendall(sent)
            response = HTTPResponse(connection)
            response.begin()
            return Answer(response.status, response.headers, response.read())

    def post(self, *lines: bytes, data: bytes | None = None, client: str = CLIENTS[0]) -> Answer:
        return self.ask(request(body() if data is None else data, *lines), client)

    def post_over_http_2(self, *lines: str) -> tuple[int, str]:
        """Send an event with each of these header lines a field of its own: the status, and the head of the answer."""
        answer = subprocess.run(
            [
                *("curl", "--silent", "--show-error", "--http2", "--cacert", self.process.folder / "certificate.pem"),
                *("--resolve", f"{HOST}:{self.port}:127.0.0.1", "--data-binary", "@-", "--dump-header", "-"),
                *("--output", "/dev/null", "--header", f"Origin: {ORIGIN}"),
                *(word for line in lines for word in ("--header", line)),
                f"https://{HOST}:{self.port}/public/demo/analytics/collect",
            ],
            input=body(),
            capture_output=True,
            check=True,
            timeout=END_S,
        ).stdout.decode()
        assert answer.startswith("HTTP/2 ")
        return int(answer.split()[1]), answer.lower()

    def heard(self, sent: bytes) -> bytes:
        """Everything that comes back until the proxy ends the connection."""
        with self.connect() as connection:
            connection.sendall(sent)
            heard = b""
            try:
                while data := connection.recv(1 << 16):
                    heard += data
            except (ConnectionError, ssl.SSLEOFError):
                pass
            return heard


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def certificate(folder: Path) -> ssl.SSLContext:
    """Make `certificate.pem` and `key.pem`; who trusts them."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"),
            *("-keyout", "key.pem", "-out", "certificate.pem"),
        ],
        cwd=folder,
        capture_output=True,
        check=True,
    )
    return ssl.create_default_context(cafile=folder / "certificate.pem")


def nginx(folder: Path, upstream: str, port: int) -> list[str]:
    site = replaced(
        block("nginx"),
        {
            "127.0.0.1:8080": upstream,
            "[::]:443": f"127.0.0.1:{free_port()}",
            "listen 443": f"listen 127.0.0.1:{port}",
            "/etc/ssl/collector/fullchain.pem": f"{folder}/certificate.pem",
            "/etc/ssl/collector/privkey.pem": f"{folder}/key.pem",
        },
    )
    (folder / "nginx.conf").write_text(NGINX.format(site=site))
    return ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]


def nginx_with_cookies(folder: Path, upstream: str, port: int) -> list[str]:
    """nginx, but it passes cookies on."""
    command = nginx(folder, upstream, port)
    file = folder / "nginx.conf"
    file.write_text(replaced(file.read_text(), {'proxy_set_header Cookie "";': ""}))
    return command


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    options = f"{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {folder}/caddy\n"
    files = f"tls {folder}/certificate.pem {folder}/key.pem"
    site = replaced(
        block("caddyfile"),
        {"127.0.0.1:8080": upstream, f"{HOST} {{\n": f"https://{HOST}:{port} {{\n\tbind 127.0.0.1\n\t{files}\n"},
    )
    (folder / "Caddyfile").write_text(site.replace("{\n", options, 1))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def haproxy(folder: Path, upstream: str, port: int, every: str = "1h") -> list[str]:
    (folder / "collector.pem").write_bytes(
        (folder / "certificate.pem").read_bytes() + (folder / "key.pem").read_bytes()
    )
    site = replaced(
        block("haproxy"),
        {
            "127.0.0.1:8080": upstream,
            ":443,[::]:443": f"127.0.0.1:{port}",
            "/etc/haproxy/collector.pem": f"{folder}/collector.pem",
            "inter 2s": f"inter {every}",  # a check is a connection, too
        },
    )
    (folder / "haproxy.cfg").write_text(site)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def caddy_with_cookies(folder: Path, upstream: str, port: int) -> list[str]:
    """Caddy, but it passes cookies on."""
    command = caddy(folder, upstream, port)
    file = folder / "Caddyfile"
    file.write_text(replaced(file.read_text(), {"header_up -Cookie": ""}))
    return command


@contextmanager
def proxied(folder: Path, command: list[str], port: int) -> Iterator[None]:
    """The proxy's process, until the block is left."""
    with (folder / "proxy.log").open("wb") as log:
        env = {"HOME": str(folder), "PATH": PROGRAMS}
        popen = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)

    def listens() -> bool:
        assert popen.poll() is None, (folder / "proxy.log").read_text()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, "the proxy listens")
        yield
    finally:
        popen.kill()
        popen.wait(END_S)


@pytest.fixture(params=[nginx, caddy, haproxy], ids=["nginx", "caddy", "haproxy"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    name = request.param.__name__.partition("_")[0]
    need(shutil.which(name, path=PROGRAMS) is not None, name)
    need(shutil.which("openssl") is not None, "openssl")
    told = tomllib.loads(block("toml"))
    with serving(
        tmp_path,
        {"demo": {}, "hidden": {}},
        server=told["server"] | {"port": 0},
        admin=told["admin"] | {"port": 0},
        privacy={"client_ip": "full"},
        rate_limit={"requests_per_minute": 1, "burst": BURST},
    ) as process:
        port = free_port()
        trust = certificate(tmp_path)
        with proxied(tmp_path, request.param(tmp_path, urlsplit(process.url).netloc, port), port):
            yield Proxied(process, port, trust)


def test_client_has_its_own_address_and_limit_and_no_other(proxy: Proxied) -> None:
    """Whatever it writes into the header; the first that goes over its limit costs the others nothing."""
    forged = b"X-Forwarded-For: 203.0.113.7, 127.0.0.1"
    for _ in range(BURST):
        assert 201 == proxy.post(forged).status
    answer = proxy.post(b"X-Forwarded-For: 203.0.113.8", b"Origin: " + ORIGIN.encode())
    assert (429, ORIGIN) == (answer.status, answer.headers["Access-Control-Allow-Origin"])
    assert int(answer.headers["Retry-After"]) > 0
    assert 201 == proxy.post(client=CLIENTS[1]).status
    assert 0 == proxy.process.stop()
    assert BURST * [CLIENTS[0]] + [CLIENTS[1]] == [row["client_ip"] for row in proxy.process.rows()]


def sayings(answer: Answer) -> set[tuple[str, str]]:
    """The headers, but those that a proxy makes anew. HAProxy writes their names in small letters."""
    headers = ((name.lower(), value) for name, value in answer.headers.items())
    return {(name, value) for name, value in headers if name not in ("date", "server")}


def test_answers_pass_unchanged(proxy: Proxied) -> None:
    """With the headers by which a page may read them, the refusals' as well; and nothing but `/public/` is there."""
    origin = b"Origin: " + ORIGIN.encode()
    straight = proxy.process.post(headers={"Origin": ORIGIN})
    sent = {
        201: request(body(), origin),
        202: request(b"{", origin),
        404: request(body(), origin, site="nobody"),
        415: request(body(), origin, b"Content-Encoding: gzip"),
        413: request(body().ljust(70_000), origin),
    }
    for status, data in sent.items():
        answer = proxy.ask(data)
        assert (status, ORIGIN) == (answer.status, answer.headers["Access-Control-Allow-Origin"])
        assert json.loads(answer.body)["message"]
        if status == 201:
            assert sayings(straight) <= sayings(answer)
    preflight = proxy.ask(head(origin, b"Access-Control-Request-Method: POST", method="OPTIONS"))
    assert (204, "86400") == (preflight.status, preflight.headers["Access-Control-Max-Age"])
    for path in ("/metrics", "/healthz", "/"):
        answer = proxy.ask(head(method="GET", target=path))
        assert (404, None) == (answer.status, answer.headers["Access-Control-Allow-Origin"])


def test_connection_to_the_collector_is_kept(proxy: Proxied) -> None:
    """One is enough for clients that come one after the other, and it stays open behind the last."""
    for number in range(2 * BURST):
        assert 201 == proxy.post(client=CLIENTS[number % 3]).status
    assert 1 == proxy.process.metrics().value("collector_connections")


def test_proxy_offers_http_2(proxy: Proxied) -> None:
    with proxy.connect(http2=True) as connection:
        assert "h2" == connection.selected_alpn_protocol()


@contextmanager
def balanced(folder: Path, check: str) -> Iterator[tuple[Proxied, Callable[[str], None]]]:
    """A collector behind HAProxy with such a check; and what waits until the check has had that outcome."""
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


def test_haproxy_sends_nothing_while_no_events_are_taken(tmp_path: Path) -> None:
    """As while data_dir is not where it was; and what it would ask by itself is a 404."""
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


def test_haproxy_passes_no_cookies_and_one_address(tmp_path: Path) -> None:
    """A page's cookies are none of the collector's business, and might fill the head that it takes."""
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
                heard = b""
                while not heard.startswith(b"POST "):  # the first check may come before it
                    connection, _ = upstream.accept()
                    with connection:
                        heard = connection.recv(1 << 16)
                        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    lines = heard.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert [] == [line for line in lines if line.startswith(b"cookie")]
    assert [b"x-forwarded-for: " + CLIENTS[0].encode()] == [line for line in lines if line.startswith(b"x-forwarded")]


def cookies(number: int) -> list[str]:
    """Cookies of 3,000 bytes, which HTTP/2 sends apart and a proxy joins to one line."""
    return [f"Cookie: c{n}={'c' * 2_997}" for n in range(number)]


@pytest.mark.parametrize("proxy", [nginx, caddy, nginx_with_cookies, caddy_with_cookies], indirect=True)
def test_cookies_of_a_page_cost_no_event(proxy: Proxied) -> None:
    """Whether they are dropped, as the blocks have it, or passed on."""
    need(shutil.which("curl") is not None, "curl")
    assert [201, 201, 201] == [proxy.post_over_http_2(*cookies(number))[0] for number in (0, 3, 10)]
    assert 201 == proxy.post(b"Cookie: " + b"; ".join(line[8:].encode() for line in cookies(10))).status


@pytest.mark.parametrize("proxy", [nginx_with_cookies, caddy_with_cookies], indirect=True)
def test_cookies_beyond_the_bound_are_refused_as_their_page_can_read(proxy: Proxied) -> None:
    need(shutil.which("curl") is not None, "curl")
    status, told = proxy.post_over_http_2(*cookies(12))
    assert 431 == status
    assert "collect-reason: too_large\r\n" in told
    assert f"access-control-allow-origin: {ORIGIN}\r\n" in told
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
def test_other_long_headers_cost_no_event(proxy: Proxied, line: str) -> None:
    need(shutil.which("curl") is not None, "curl")
    assert 201 == proxy.post_over_http_2(line)[0]


@pytest.mark.parametrize("proxy", [nginx], indirect=True)
def test_nothing_is_smuggled_through(proxy: Proxied) -> None:
    for attack in SMUGGLING:
        proxy.heard(BROKEN[attack][0])
        assert 0 == proxy.process.metrics().value("collector_received_events_total", site="hidden"), attack
    assert 201 == proxy.post(client=CLIENTS[1]).status
