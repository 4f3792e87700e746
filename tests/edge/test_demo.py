"""The demo: the files of `tracker.demo_dir`, and nothing else of the disk."""

from pathlib import Path

import pytest

from collector.edge.demo import demo_files
from tests.edge.conftest import Connect, Serve
from tests.edge.wire import Wire, head, tally
from tests.support import Running

FILES = {
    "index.html": b"<!doctype html>",
    "shop.css": b"body {}",
    "About us.html": b"us",
    "more/index.html": b"more",
    "more/logo.SVG": b"<svg/>",
    "data.unknown": b"\0",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    for name, content in {**FILES, ".hidden": b"secret", ".git/config": b"secret"}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "secret.html").write_bytes(b"secret")
    return folder


@pytest.fixture
async def shop(serve: Serve, folder: Path) -> Running:
    return await serve(tracker={"demo_dir": str(folder)})


@pytest.fixture
async def wire(shop: Running, connect: Connect) -> Wire:
    return await connect(shop)


@pytest.mark.parametrize(
    ("path", "file", "kind"),
    [
        ("", "index.html", "text/html; charset=utf-8"),
        ("?x", "index.html", "text/html; charset=utf-8"),
        ("index.html", "index.html", "text/html; charset=utf-8"),
        ("shop.css?v=1", "shop.css", "text/css; charset=utf-8"),
        ("About%20us.html", "About us.html", "text/html; charset=utf-8"),
        ("more/", "more/index.html", "text/html; charset=utf-8"),
        ("more/logo.SVG", "more/logo.SVG", "image/svg+xml; charset=utf-8"),
        ("data.unknown", "data.unknown", "application/octet-stream"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_file_of_the_demo_is_served(
    shop: Running, wire: Wire, path: str, file: str, kind: str, method: str
) -> None:
    """Browsers ask again each time, because the demo changes with the collector. It is not counted as an event."""
    answer = await wire.ask(head(b"Accept-Encoding: br, gzip", method=method, target=f"/demo/{path}"))
    assert (200, FILES[file] if method == "GET" else b"") == (answer.status, answer.body)
    assert {
        "Server": "collector",
        "Content-Type": kind,
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Length": str(len(FILES[file])),
    } == {name: value for name, value in answer.headers.items() if name not in ("Date", "Etag")}
    again = await wire.ask(
        head(b"If-None-Match: " + answer.headers["Etag"].encode(), method=method, target=f"/demo/{path}")
    )
    assert (304, b"") == (again.status, again.body)
    assert ({}, {}) == (tally(shop), tally(shop, "(unknown)"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_demo_without_its_slash_leads_to_it(wire: Wire, method: str) -> None:
    """Relative, so that it holds behind a proxy that adds a prefix."""
    answer = await wire.ask(head(method=method, target="/demo"))
    assert (308, "demo/", "no-cache") == (answer.status, answer.headers["Location"], answer.headers["Cache-Control"])


@pytest.mark.parametrize(
    "path",
    [
        "../secret.html",
        "%2e%2e/secret.html",
        "..%2Fsecret.html",
        "more/../index.html",
        "./index.html",
        "/index.html",
        "more",
        "more//logo.SVG",
        ".hidden",
        ".git/config",
        "index.html/",
        "INDEX.html",
        "index.html%00",
        "..\\secret.html",
        "nothing",
    ],
)
async def test_nothing_else_is_served(wire: Wire, path: str) -> None:
    answer = await wire.ask(head(method="GET", target=f"/demo/{path}"))
    assert (404, "not_found") == (answer.status, answer.reason)


@pytest.mark.parametrize("path", ["/public/demo/demo", "/public/demo/demo/", "/public/demo/index.html", "/index.html"])
async def test_demo_is_at_its_path_only(wire: Wire, path: str) -> None:
    assert 404 == (await wire.ask(head(method="GET", target=path))).status


@pytest.mark.parametrize("path", ["/demo", "/demo/", "/demo/index.html"])
async def test_demo_is_only_read(wire: Wire, path: str) -> None:
    answer = await wire.ask(head(method="POST", target=path))
    assert (405, "GET, HEAD") == (answer.status, answer.headers["Allow"])


@pytest.mark.parametrize("path", ["/demo", "/demo/", "/demo/index.html"])
async def test_collector_without_the_setting_has_no_demo(serve: Serve, connect: Connect, path: str) -> None:
    """Not even one with a site called `demo`."""
    answer = await (await connect(await serve({"demo": {}}))).ask(head(method="GET", target=path))
    assert (404, "not_found") == (answer.status, answer.reason)


async def test_files_are_read_at_the_start(wire: Wire, folder: Path) -> None:
    (folder / "index.html").write_bytes(b"changed")
    (folder / "new.html").write_bytes(b"new")
    assert FILES["index.html"] == (await wire.ask(head(method="GET", target="/demo/"))).body
    assert 404 == (await wire.ask(head(method="GET", target="/demo/new.html"))).status


@pytest.mark.parametrize("name", ["a(1).png", "it's.txt", "a+b,c.txt", "me@2x.png"])
def test_names_are_found_as_browsers_send_them(name: str) -> None:
    assert f"/demo/{name}" in demo_files({name: b""})
