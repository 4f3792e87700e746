"""The tracker below a path of the site's own host: nginx and Caddy serve a shop, with the blocks of docs/tracker.md.

The shop has what sites have: files of its own, compression, a rule for scripts, an application that answers every path.
"""

import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from collector.config import DEFAULT_SCRIPT_PATH
from collector.edge.script import current, pinned_name
from tests.crash.conftest import need
from tests.edge.wire import head, request
from tests.network.proxies import (
    CLIENTS,
    DOCS,
    END_S,
    HOST,
    PROGRAMS,
    Proxied,
    block,
    certificate,
    free_port,
    proxied,
    replaced,
    run_caddy,
    run_nginx,
)
from tests.support import body
from tests.system.process import serving, wait_until
from tests.tracker.engines import CHROMIUM

PAGE = "tracker.md"
TRUSTED = {"port": 0, "trusted_proxies": ["127.0.0.1"]}
SCRIPT = current().content
COOKIE = b"Cookie: _cvid=secret"
FORGED = b"X-Forwarded-For: 203.0.113.7"

NGINX_SHOP = """
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name {host};
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        root {folder}/shop;
        gzip on;
        gzip_types *;
        gzip_min_length 1;
        location / {{ try_files $uri /index.html; }}
        location ~ \\.js$ {{ add_header Cache-Control immutable; }}
        {documented}
    }}
"""
CADDY_SHOP = """
{{
}}
{host} {{
	root * {folder}/shop
	encode gzip
	{documented}
	handle {{
		try_files {{path}} /index.html
		file_server
	}}
}}
"""


def nginx(folder: Path, upstream: str, port: int) -> list[str]:
    documented = replaced(block("nginx", PAGE), {"127.0.0.1:8080": upstream})
    return run_nginx(folder, NGINX_SHOP.format(port=port, host=HOST, folder=folder, documented=documented))


def caddy(folder: Path, upstream: str, port: int) -> list[str]:
    documented = replaced(block("caddyfile", PAGE), {"127.0.0.1:8080": upstream})
    return run_caddy(folder, CADDY_SHOP.format(host=HOST, folder=folder, documented=documented), port)


Command = Callable[[Path, str, int], list[str]]


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def command(request: pytest.FixtureRequest) -> Command:
    made: Command = request.param
    need(shutil.which(made.__name__, path=PROGRAMS) is not None, made.__name__)
    need(shutil.which("openssl") is not None, "openssl")
    return made


def tag(source: str) -> str:
    """The tag that the page gives for a script on the own domain."""
    (found,) = re.findall(r"`(<script [^`]*src=\"/c/[^`]*</script>)`", (DOCS / PAGE).read_text())
    return replaced(found, {"/c/public/example/t.js": source})


def open_shop(folder: Path, script: str = "/c/public/demo/t.js") -> None:
    (folder / "shop").mkdir()
    page = replaced(tag(script), {"<script ": "<script data-automation "})
    (folder / "shop" / "index.html").write_text(f"<!doctype html><title>Shop</title>{page}<p>Shop")


@contextmanager
def shop_of(command: Command, folder: Path) -> Iterator[Proxied]:
    with serving(folder, {"demo": {}}, server=TRUSTED, privacy={"client_ip": "full"}) as process:
        port, trust = free_port(), certificate(folder)
        open_shop(folder)
        with proxied(folder, command(folder, urlsplit(process.url).netloc, port), port):
            yield Proxied(process, port, trust)


@pytest.fixture
def shop(command: Command, tmp_path: Path) -> Iterator[Proxied]:
    with shop_of(command, tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "path", ["/c/public/demo/t.js", f"/c/public/demo/{pinned_name(DEFAULT_SCRIPT_PATH, current())}"]
)
@pytest.mark.parametrize("encoding", ["br", "gzip", "identity"])
def test_script_is_served_as_the_collector_sends_it(shop: Proxied, path: str, encoding: str) -> None:
    """Neither compressed again nor changed: not its headers, and not by rules that the shop has for its own scripts."""
    accepts = b"Accept-Encoding: " + encoding.encode()
    answer = shop.ask(head(accepts, method="GET", target=path))
    is_same = answer.body == SCRIPT[encoding]  # a difference of 20 KB takes pytest minutes to show
    assert (200, True) == (answer.status, is_same)
    host, port = urlsplit(shop.process.url).hostname, urlsplit(shop.process.url).port
    assert host is not None
    with socket.create_connection((host, port), timeout=END_S) as direct:
        direct.sendall(head(accepts, method="GET", target=path.removeprefix("/c")))
        response = HTTPResponse(direct)
        response.begin()
        expected = {name.lower(): value for name, value in response.getheaders()}
    changed = {"date", "server", "connection", "keep-alive", "alt-svc"}
    assert {(name, value) for name, value in expected.items() if name not in changed} == {
        (name.lower(), value) for name, value in answer.headers.items() if name.lower() not in changed
    }
    again = shop.ask(head(accepts, b"If-None-Match: " + expected["etag"].encode(), method="GET", target=path))
    assert (304, b"") == (again.status, again.body)


def test_event_is_stored_with_the_address_of_the_client(shop: Proxied) -> None:
    for client in CLIENTS:
        assert 201 == shop.ask(request(body(), FORGED, COOKIE, target="/c/public/demo/e"), client).status
    assert 0 == shop.process.stop()
    assert [*CLIENTS] == [row["client_ip"] for row in shop.process.rows()]


def test_refusals_of_the_collector_reach_the_page(shop: Proxied) -> None:
    """A body that is too large is refused by the collector, not by the proxy."""
    refused = shop.ask(request(b"{}".ljust(70_000), target="/c/public/demo/e"))
    assert (413, "too_large") == (refused.status, refused.headers["Collect-Reason"])
    unknown = shop.ask(request(body(), target="/c/public/nobody/e"))
    assert (404, "unknown_site") == (unknown.status, unknown.headers["Collect-Reason"])


def test_shop_is_served_beside_it(shop: Proxied) -> None:
    """Nothing of the collector is there but `/public/`."""
    for path in ("/", "/cart", "/public/demo/e", "/c/healthz"):
        answer = shop.ask(head(method="GET", target=path))
        assert (200, "text/html") == (answer.status, answer.headers["Content-Type"].partition(";")[0])
        assert b"<title>Shop" in answer.body


def test_cookies_and_forged_addresses_do_not_reach_the_collector(command: Command, tmp_path: Path) -> None:
    """Its path is there without the part that the shop has put in front."""
    trust, port = certificate(tmp_path), free_port()
    open_shop(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(END_S)
        with proxied(tmp_path, command(tmp_path, f"127.0.0.1:{upstream.getsockname()[1]}", port), port):
            plain = socket.create_connection(("127.0.0.1", port), timeout=END_S, source_address=(CLIENTS[0], 0))
            with trust.wrap_socket(plain, server_hostname=HOST) as client:
                client.sendall(request(body(), COOKIE, FORGED, target="/c/public/demo/e"))
                connection, _ = upstream.accept()
                with connection:
                    received = connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    first, *lines = received.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert b"post /public/demo/e http/1" in first
    assert b"secret" not in received
    assert [b"x-forwarded-for: " + CLIENTS[0].encode()] == [
        line for line in lines if line.startswith(b"x-forwarded-for")
    ]


def test_tag_of_the_own_domain_sends_events_there(shop: Proxied, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The browser asks no other host. The shop's page is HTTPS, so its cookies are Secure, and not sent along."""
    CHROMIUM.require()
    with ExitStack() as stack:
        driver = stack.enter_context(CHROMIUM.driver(tmp_path_factory.mktemp("chromium"), None))
        browser = stack.enter_context(driver.browser(acceptInsecureCerts=True))
        browser.open(f"https://{HOST}:{shop.port}/prices")
        wait_until(lambda: shop.process.metrics().value("collector_stored_events_total", site="demo") >= 1, "an event")
        resources = "return performance.getEntriesByType('resource').map(each => new URL(each.name).pathname)"

        def asked() -> set[str]:
            return set(browser.run(resources)) - {"/favicon.ico"}

        # The browser lists a request once it has the response, which comes after the event is stored.
        wait_until(lambda: {"/c/public/demo/t.js", "/c/public/demo/e"} == asked(), "the script and an event, no more")
        cookies = browser.cookies()
    assert {"_cvid": True, "_csid": True} == {name: each["secure"] for name, each in cookies.items()}
    assert 0 == shop.process.stop()
    assert ("pageview", "/prices", "Shop", "127.0.0.1") == tuple(
        shop.process.rows()[0][name] for name in ("event_type", "page_path", "page_title", "client_ip")
    )
