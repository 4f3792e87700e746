"""Rivals: servers that people would use instead, each with one worker and in its best ordinary form.

| rival | checks | stores |
|---|---|---|
| FastAPI, pydantic, uvicorn (uvloop, httptools) | the 61 fields | nothing |
| Granian (RSGI), msgspec | the 61 fields | NDJSON to a file, in batches, not synced |
| Bun, ajv | the 61 fields | NDJSON to a file, in batches, not synced |
| Fastify, ajv | the 61 fields | NDJSON to a file, in batches, not synced |
| Fluent Bit, http input | that it is JSON | NDJSON to a file, not synced |
| nginx with Lua | nothing | bodies to a buffered log, not synced |

Unlike the collector, none of them has a rate limit, exclusions, CORS, metrics or Parquet.
"""

import http.client
import json
import platform
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.results import about_python, output
from bench.server import POLL_S, READY_S, ROOT, NoResult, Server, started

HERE = Path(__file__).parent
SCHEMA = ROOT / "schemas" / "collect.schema.json"
RIVALS_BIN = ROOT / ".venv-rivals" / "bin"
RIVALS_PYTHON = RIVALS_BIN / "python"
FASTIFY = HERE / "fastify"
BUN = HERE / "bun"
# npm's package `bun` has no program of its own: its package for this processor has it.
BUN_PROGRAM = BUN / f"node_modules/@oven/bun-linux-{'aarch64' if platform.machine() == 'aarch64' else 'x64'}/bin/bun"
STORED = "events.ndjson"
LUA = "/usr/lib/nginx/modules/ngx_http_lua_module.so"


@dataclass(frozen=True, slots=True)
class Rival:
    """One rival server. `needs` lists programs or files, each with how to install it.

    `versions` asks the installed programs and packages for theirs.
    """

    name: str
    title: str
    command: tuple[str, ...]
    needs: tuple[tuple[str, str], ...]
    versions: Callable[[], dict[str, str]]
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


def _python_versions(*packages: str) -> dict[str, str]:
    about = about_python(str(RIVALS_PYTHON), *packages)
    assert about is not None
    return {"Python": about["version"], **about["packages"]}


def _program_version(name: str, *command: str) -> dict[str, str]:
    found = re.search(r"\d+(\.\d+)+", output(*command) or "")
    return {name: found[0]} if found else {}


def _npm_versions(program: str, path: str, folder: Path, *packages: str) -> dict[str, str]:
    manifests = {name: json.loads((folder / "node_modules" / name / "package.json").read_text()) for name in packages}
    return _program_version(program, path, "--version") | {name: about["version"] for name, about in manifests.items()}


RIVALS = (
    Rival(
        "fastapi",
        "FastAPI, pydantic, uvicorn",
        (str(RIVALS_PYTHON), "@HERE@/fastapi_app.py", "@PORT@", "@SCHEMA@"),
        ((str(RIVALS_BIN / "uvicorn"), "make bench-rivals"),),
        partial(_python_versions, "fastapi", "pydantic", "uvicorn", "uvloop", "httptools"),
        stores=False,
        checks=True,
    ),
    Rival(
        "granian",
        "Granian, msgspec",
        (str(RIVALS_PYTHON), "@HERE@/granian_app.py", "@PORT@", "@SCHEMA@", f"@FOLDER@/{STORED}"),
        ((str(RIVALS_BIN / "granian"), "make bench-rivals"),),
        partial(_python_versions, "granian", "msgspec", "uvloop"),
        checks=True,
    ),
    Rival(
        "bun",
        "Bun, ajv",
        (str(BUN_PROGRAM), "@HERE@/bun/server.js", "@PORT@", "@SCHEMA@", f"@FOLDER@/{STORED}"),
        ((str(BUN_PROGRAM), "make bench-rivals, which needs npm"),),
        partial(_npm_versions, "Bun", str(BUN_PROGRAM), BUN, "ajv"),
        checks=True,
    ),
    Rival(
        "fastify",
        "Fastify, ajv",
        ("node", "@HERE@/fastify/server.js", "@PORT@", "@SCHEMA@", f"@FOLDER@/{STORED}"),
        (("node", "Debian: apt-get install nodejs npm"), (str(FASTIFY / "node_modules/fastify"), "make bench-rivals")),
        partial(_npm_versions, "Node", "node", FASTIFY, "fastify", "ajv"),
        checks=True,
    ),
    Rival(
        "fluent-bit",
        "Fluent Bit",
        ("fluent-bit", "-c", "@FOLDER@/fluent-bit.conf"),
        (("fluent-bit", "see docs.fluentbit.io"),),
        partial(_program_version, "Fluent Bit", "fluent-bit", "--version"),
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
        partial(_program_version, "nginx", "nginx", "-v"),
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
