"""What people would use instead: each a process with one worker, in its best usual form.

| rival | checks | stores |
|---|---|---|
| FastAPI, pydantic, uvicorn (uvloop, httptools) | the 61 fields | nothing |
| Fastify, ajv | the 61 fields | NDJSON to a stream, not synced |
| Fluent Bit, http input | that it is JSON | NDJSON to a file, not synced |
| nginx with Lua | nothing | bodies to a buffered log, not synced |

None of them has a rate limit, exclusions, CORS, metrics or Parquet, as the collector has throughout.
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
    """One of them. `needs` are programs or files, each with how to get it."""

    name: str
    title: str
    command: tuple[str, ...]
    needs: tuple[tuple[str, str], ...]
    config: str | None = None
    stores: bool = True
    checks: bool = False  # refuses what breaks the contract
    json_only: bool = False  # takes no `text/plain`, as beacons send it

    def missing(self) -> str | None:
        """What it lacks to run here, in words; None if nothing."""
        for need, remedy in self.needs:
            if not (Path(need).exists() if "/" in need else shutil.which(need)):
                return f"{need.rpartition('/')[2] or need} is missing: {remedy}"
        return None

    @contextmanager
    def serving(self, folder: Path, cores: str | None) -> Iterator[Server]:
        """It, ready, its files in `folder`. Raises NoResult where it does not start."""
        port = _free_port()
        words = {"@PORT@": str(port), "@FOLDER@": str(folder), "@HERE@": str(HERE), "@SCHEMA@": str(SCHEMA)}

        def filled(text: str) -> str:
            for word, value in words.items():
                text = text.replace(word, value)
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
                _refuses_nonsense(self.title, port)
            yield server

    def stored(self, folder: Path) -> int | None:
        """How many events it has written down; None if it never does."""
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
        (("fluent-bit", "docs.fluentbit.io says how to install it"),),
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


def _refuses_nonsense(title: str, port: int) -> None:
    """Raise NoResult if it takes an event without its required fields: it would be compared for what it is not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/public/site-0/analytics/collect", '{"visitor_id": 5}', {"Content-Type": "text/plain"})
    status = connection.getresponse().status
    connection.close()
    if status < 400:
        raise NoResult(f"{title} answers {status} to what breaks the contract")


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
