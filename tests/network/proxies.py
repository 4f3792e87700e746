"""Real proxies, configured by the blocks of the docs with other ports and a test certificate."""

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

from tests.edge.wire import request
from tests.support import body
from tests.system.process import Answer, Process, wait_until

DOCS = Path(__file__).parents[2] / "docs"
HOST = "collector.example"
ORIGIN = "https://shop.example"
CLIENTS = ("127.0.0.21", "127.0.0.22", "127.0.0.23")
BURST = 12
END_S = 10
UNIX_SOCKET = "/run/collector/collector.sock"
PROGRAMS = "/usr/sbin:/usr/bin:/sbin:/bin"

NGINX = """
daemon off;
master_process off;
user root;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {site}
}}
"""


def block(language: str, page: str = "deployment.md", number: int = 0) -> str:
    """Return a code block in that language from a page of docs/, by default the first."""
    found = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    text: str = found[number]
    return text


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Apply replacements; every old text must be present."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the configuration"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True, slots=True)
class Proxied:
    """A collector, and the port of the proxy in front of it."""

    process: Process
    port: int
    trust: ssl.SSLContext

    def connect(self, client: str = CLIENTS[0], *, http2: bool = False) -> ssl.SSLSocket:
        self.trust.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=END_S, source_address=(client, 0))
        return self.trust.wrap_socket(plain, server_hostname=HOST)

    def ask(self, sent: bytes, client: str = CLIENTS[0]) -> Answer:
        """Send a request on a new connection."""
        with self.connect(client) as connection:
            connection.sendall(sent)
            response = HTTPResponse(connection)
            response.begin()
            return Answer(response.status, response.headers, response.read())

    def post(self, *lines: bytes, data: bytes | None = None, client: str = CLIENTS[0]) -> Answer:
        return self.ask(request(body() if data is None else data, *lines), client)

    def post_over_http_2(self, *lines: str) -> tuple[int, str]:
        """Send an event with curl, each line as a separate header field. Returns the status and the lower-case head."""
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

    def received(self, sent: bytes) -> bytes:
        """Return everything received until the proxy closes the connection."""
        with self.connect() as connection:
            connection.sendall(sent)
            received = b""
            try:
                while data := connection.recv(1 << 16):
                    received += data
            except (ConnectionError, ssl.SSLEOFError):
                pass
            return received


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def certificate(folder: Path) -> ssl.SSLContext:
    """Make `certificate.pem` and `key.pem`; return a client context that trusts them."""
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
    return run_nginx(folder, site)


def nginx_over_unix(folder: Path, upstream: str, port: int) -> list[str]:
    """nginx, changed to connect to the Unix socket `collector.sock` in the folder."""
    command = nginx(folder, upstream, port)
    over_unix = replaced(block("nginx", number=1), {UNIX_SOCKET: f"{folder}/collector.sock"})
    file = folder / "nginx.conf"
    file.write_text(re.sub(r"upstream collector \{.*?\n\}\n", over_unix, file.read_text(), count=1, flags=re.DOTALL))
    assert upstream not in file.read_text()
    return command


def run_nginx(folder: Path, site: str) -> list[str]:
    """Write a configuration with these blocks; return the command that runs it."""
    (folder / "nginx.conf").write_text(NGINX.format(site=site))
    return ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]


def nginx_with_cookies(folder: Path, upstream: str, port: int) -> list[str]:
    """nginx, changed to forward cookies."""
    command = nginx(folder, upstream, port)
    file = folder / "nginx.conf"
    file.write_text(replaced(file.read_text(), {'proxy_set_header Cookie "";': ""}))
    return command


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    return run_caddy(folder, replaced(block("caddyfile"), {"127.0.0.1:8080": upstream}), port)


def run_caddy(folder: Path, config: str, port: int) -> list[str]:
    """Write a Caddyfile, its global options first; return the command that runs it."""
    options = f"{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {folder}/caddy\n"
    files = f"tls {folder}/certificate.pem {folder}/key.pem"
    site = replaced(config, {f"{HOST} {{\n": f"https://{HOST}:{port} {{\n\tbind 127.0.0.1\n\t{files}\n"})
    (folder / "Caddyfile").write_text(site.replace("{\n", options, 1))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def haproxy(folder: Path, upstream: str, port: int, every: str = "1h") -> list[str]:
    """HAProxy with a health check at that interval, which by default does not recur during a test."""
    (folder / "collector.pem").write_bytes(
        (folder / "certificate.pem").read_bytes() + (folder / "key.pem").read_bytes()
    )
    site = replaced(
        block("haproxy"),
        {
            "127.0.0.1:8080": upstream,
            ":443,[::]:443": f"127.0.0.1:{port}",
            "/etc/haproxy/collector.pem": f"{folder}/collector.pem",
            "inter 2s": f"inter {every}",  # a check opens a connection, which tests would count
        },
    )
    (folder / "haproxy.cfg").write_text(site)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def caddy_with_cookies(folder: Path, upstream: str, port: int) -> list[str]:
    """Caddy, changed to forward cookies."""
    command = caddy(folder, upstream, port)
    file = folder / "Caddyfile"
    file.write_text(replaced(file.read_text(), {"header_up -Cookie": ""}))
    return command


@contextmanager
def proxied(folder: Path, command: list[str], port: int) -> Iterator[None]:
    """Run the proxy and wait until it listens; kill it at the end of the block."""
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
