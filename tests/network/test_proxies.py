"""nginx and Caddy in front: the blocks of docs/deployment.md, with other ports and a certificate of the test."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
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


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    options = f"{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {folder}/caddy\n"
    files = f"tls {folder}/certificate.pem {folder}/key.pem"
    site = replaced(
        block("caddyfile"),
        {"127.0.0.1:8080": upstream, f"{HOST} {{\n": f"https://{HOST}:{port} {{\n\tbind 127.0.0.1\n\t{files}\n"},
    )
    (folder / "Caddyfile").write_text(site.replace("{\n", options, 1))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


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


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    name = request.param.__name__
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
            ours = {name: value for name, value in straight.headers.items() if name not in ("Date", "Server")}
            assert ours.items() <= dict(answer.headers.items()).items()
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


@pytest.mark.parametrize("proxy", [nginx], indirect=True)
def test_nothing_is_smuggled_through(proxy: Proxied) -> None:
    for attack in SMUGGLING:
        proxy.heard(BROKEN[attack][0])
        assert 0 == proxy.process.metrics().value("collector_received_events_total", site="hidden"), attack
    assert 201 == proxy.post(client=CLIENTS[1]).status
