"""nginx, Caddy and HAProxy in front: the blocks of docs/deployment.md, with other ports and the test's certificate."""

import json
import shutil
import socket
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.crash.conftest import need
from tests.edge.wire import head, request
from tests.network.proxies import (
    BURST,
    CLIENTS,
    END_S,
    HOST,
    ORIGIN,
    PROGRAMS,
    Proxied,
    block,
    caddy,
    caddy_with_cookies,
    certificate,
    free_port,
    haproxy,
    nginx,
    nginx_with_cookies,
    proxied,
    replaced,
)
from tests.network.test_attacks import BROKEN
from tests.support import body
from tests.system.process import Answer, serving, wait_until

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
