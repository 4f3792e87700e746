"""Rivals: servers that people would use instead, each with one worker and in its best common setup.

| rival | checks | stores |
|---|---|---|
| FastAPI, pydantic, uvicorn (uvloop, httptools) | the 61 fields | nothing |
| Fastify, ajv | the 61 fields | NDJSON to a stream, not synced |
| Fluent Bit, http input | that it is JSON | NDJSON to a file, not synced |
| nginx with Lua | nothing | bodies to a buffered log, not synced |

Unlike the collector, none of them has a rate limit, exclusions, CORS, metrics or Parquet.
"""

import http.client
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.server import POLL_S, READY_S, ROOT, NoResult, Server, started

HERE = Path(__file__).parent
SCHEMA = ROOT / "schemas" / "collect.schema.json"
RIVALS_PYTHON = ROOT / ".venv-rivals" / "bin" / "python"
FASTIFY = HERE / "fastify" / "package.json"
STORED = "events.ndjson"
LUA = "/usr/lib/nginx/modules/ngx_http_lua_module.so"


@dataclass(frozen=True, slots=True)
class Rival:
    """One rival server. `needs` lists programs or files, each with how to install it."""

    name: str
    title: str
    command: tuple[str, ...]
    needs: tuple[tuple[str, str], ...]
    config: str | None = None
    stores: bool = True
    checks: bool = False  # rejects events that break the contract
    json_only: bool = False  # does not accept `text/plain`, which beacons send

    def missing(self) -> str | None:
        """Say what is missing to run it here; None if nothing is."""
        for need, remedy in self.needs:
            if not (Path(need).exists() if "/" in need else shutil.which(need)):
                return f"{need.rpartition('/')[2] or need} is missing: {remedy}"
        return None

    @contextmanager
    def serving(self, folder: Path, cores: str | None) -> Iterator[Server]:
        """Start it with its files in `folder`; yield it once it listens. Raises NoResult if it does not start."""
        port = _free_port()
        values = {"@PORT@": str(port), "@FOLDER@": str(folder), "@HERE@": str(HERE), "@SCHEMA@": str(SCHEMA)}

        def filled(text: str) -> str:
            for placeholder, value in values.items():
                text = text.replace(placeholder, value)
            return text

        if self.config:
            (folder / self.config).write_text(filled((HERE / self.config).read_text()))
        with started([filled(word) for word in self.command], folder, cores=cores) as server:
            until = time.monotonic() + READY_S
            while not _listens(port):
                if server.popen.poll() is not None or time.monotonic() > until:
                    raise NoResult(f"{self.title} did not start:\n{server.tail()}")
                time.sleep(POLL_S)
            server.url = f"http://127.0.0.1:{port}"
            if self.checks:
                _check_rejects(self.title, port)
            yield server

    def stored(self, folder: Path) -> int | None:
        """Return how many events it has written; None if it stores nothing."""
        if not self.stores:
            return None
        path = folder / STORED
        return path.read_bytes().count(b"\n") if path.exists() else 0


RIVALS = (
    Rival(
        "fastapi",
        "FastAPI, pydantic, uvicorn",
        (str(RIVALS_PYTHON), "@HERE@/fastapi_app.py", "@PORT@", "@SCHEMA@"),
        ((str(RIVALS_PYTHON), "make bench-rivals"),),
        stores=False,
        checks=True,
    ),
    Rival(
        "fastify",
        "Fastify, ajv",
        ("node", "@HERE@/fastify/server.js", "@PORT@", "@SCHEMA@", f"@FOLDER@/{STORED}"),
        (("node", "Debian: apt-get install nodejs npm"), (str(HERE / "fastify/node_modules"), "make bench-rivals")),
        checks=True,
    ),
    Rival(
        "fluent-bit",
        "Fluent Bit",
        ("fluent-bit", "-c", "@FOLDER@/fluent-bit.conf"),
        (("fluent-bit", "see docs.fluentbit.io"),),
        config="fluent-bit.conf",
        json_only=True,
    ),
    Rival(
        "nginx",
        "nginx, Lua",
        ("nginx", "-p", "@FOLDER@", "-c", "@FOLDER@/nginx.conf"),
        (
            ("nginx", "Debian: apt-get install nginx-light"),
            (LUA, "Debian: apt-get install libnginx-mod-http-lua"),
        ),
        config="nginx.conf",
    ),
)


def _check_rejects(title: str, port: int) -> None:
    """Raise NoResult if it accepts an event without required fields, because then the comparison is unfair."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/public/site-0/analytics/collect", '{"visitor_id": 5}', {"Content-Type": "text/plain"})
    status = connection.getresponse().status
    connection.close()
    if status < 400:
        raise NoResult(f"{title} answers {status} to an event that breaks the contract; expected 4xx")


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
