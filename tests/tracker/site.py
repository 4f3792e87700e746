"""The web site under test: pages that a test describes, and the servers that serve them, in a thread of their own.

Two listeners, so two ports: one serves the pages, one is the recorder in front of the collector. Both answer to every
host below `localhost`, which all three engines resolve to 127.0.0.1 and treat as secure, though it is plain HTTP.

    http://s001.localhost:PAGES/            the site; also www.s001.localhost
    http://collect.localhost:RECORDER/      the collector, another site: its events are cross-origin

Each test has a host of its own, its site id. So it starts without cookies, storage or cache.
"""

import asyncio
import html
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from collector.daemon.resources import listen
from tests.tracker.recorder import Recorder
from tests.tracker.webdriver import SCRIPT_S

NONCE = "harness"

# Before everything else on a page: what goes wrong on it is reported to the page server, also while it is left.
WATCH = """
(() => {
  const send = navigator.sendBeacon.bind(navigator);  // tests replace it
  const tell = (kind, text) => send(ERRORS, JSON.stringify({kind, text: String(text), url: location.href}));
  addEventListener("error", event => {
    if (event instanceof ErrorEvent) tell("error", `${event.message} (${event.filename}:${event.lineno})`);
  }, true);
  addEventListener("unhandledrejection", event => tell("rejection", event.reason));
  addEventListener("securitypolicyviolation", event =>
    tell("csp", `${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
})();
"""


# A clock that tests can put forward (`visit.advance`): Date, performance.now, the timeStamp of events, and timeouts,
# which run in their order and at their time. Real time goes on beneath. Left out: setInterval and performance entries.
# WebKitGTK's driver limits its scripts by a timeout of the page, of DRIVER_MS, which stays on the real clock.
CLOCK = """
(() => {
  const now = performance.now.bind(performance), later = setTimeout.bind(window), never = clearTimeout.bind(window);
  const RealDate = Date, timers = new Map();
  let ahead = 0, lastId = 1e6;
  performance.now = () => now() + ahead;
  window.Date = class Date extends RealDate {
    constructor(...of) { if (of.length) super(...of); else super(RealDate.now() + ahead); }
    static now() { return RealDate.now() + ahead; }
  };
  const { get } = Object.getOwnPropertyDescriptor(Event.prototype, "timeStamp");
  Object.defineProperty(Event.prototype, "timeStamp", { get() { return get.call(this) + ahead; }, configurable: true });
  window.setTimeout = (run, ms = 0, ...of) => {
    if (ms === DRIVER_MS) return later(run, ms, ...of);
    const id = ++lastId, timer = { due: performance.now() + Number(ms), run: () => { timers.delete(id); run(...of); } };
    timer.handle = later(timer.run, ms);
    timers.set(id, timer);
    return id;
  };
  window.clearTimeout = id => {
    if (timers.has(id)) { never(timers.get(id).handle); timers.delete(id); } else never(id);
  };
  window.advanceClock = async ms => {
    const end = performance.now() + ms;
    for (;;) {
      const [timer] = [...timers.values()].filter(each => each.due <= end).sort((a, b) => a.due - b.due);
      if (!timer) break;
      ahead += Math.max(0, timer.due - performance.now());
      never(timer.handle);
      timer.run();
      await new Promise(done => later(done));
    }
    ahead += Math.max(0, end - performance.now());
    for (const timer of timers.values()) {
      never(timer.handle);
      timer.handle = later(timer.run, timer.due - performance.now());
    }
  };
})();
""".replace("DRIVER_MS", str(round(SCRIPT_S * 1000)))


@dataclass(frozen=True, slots=True)
class Resource:
    """What a path serves."""

    body: bytes = b""
    content_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Problem:
    """An uncaught error (`error`), an unhandled rejection (`rejection`) or a violation of CSP (`csp`) on a page."""

    kind: str
    text: str
    url: str


class Servers:
    """Serves pages, and the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.pages_port = 0
        self.recorder_port = 0
        self.problems: defaultdict[str, list[Problem]] = defaultdict(list)
        self.requests: defaultdict[str, list[str]] = defaultdict(list)  # by host: paths that were asked for
        self._resources: dict[tuple[str, str], Resource] = {}
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()

    def serve(self, site: str, path: str, resource: Resource) -> None:
        """Serve this at a path of the site, on all its hosts."""
        self._resources[site, path] = resource

    @contextmanager
    def running(self) -> Iterator[None]:
        ready = threading.Event()
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(ready),), name="servers")
        thread.start()
        try:
            assert ready.wait(10), "the page servers did not start"
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(10)
            self._loop.close()

    async def _run(self, ready: threading.Event) -> None:
        pages = web.Application()
        pages.router.add_post("/errors/{site}", self._take_problem)
        self.recorder.routes(pages)
        pages.router.add_get("/{path:.*}", self._serve)
        pages.router.add_post("/{path:.*}", self._serve)
        collect = web.Application()
        self.recorder.routes(collect)
        runners = []
        for app in (pages, collect):
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
            await runner.setup()
            bound = listen("127.0.0.1", 0, "pages")
            await web.SockSite(runner, bound).start()
            runners.append((runner, bound.getsockname()[1]))
        self.pages_port, self.recorder_port = runners[0][1], runners[1][1]
        ready.set()
        await self._stop.wait()
        for runner, _ in runners:
            await runner.cleanup()
        hanging = asyncio.all_tasks() - {asyncio.current_task()}  # requests whose fault it was to get no answer
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    async def _take_problem(self, request: web.Request) -> web.Response:
        self.problems[request.match_info["site"]].append(Problem(**json.loads(await request.read())))
        self.recorder.notify()
        return web.Response(status=204)

    async def _serve(self, request: web.Request) -> web.Response:
        host = (request.host or "").partition(":")[0]
        site = host.split(".")[-2] if "." in host else host
        self.requests[host].append(request.path_qs)
        resource = self._resources.get((site, request.path_qs)) or self._resources.get((site, request.path))
        if resource is None:
            status = 200 if request.path == "/blank" else 404
            return web.Response(status=status, text="<!doctype html><title>Blank</title>", content_type="text/html")
        if resource.delay_s:
            await asyncio.sleep(resource.delay_s)
        headers = {"Content-Type": resource.content_type, "Cache-Control": "max-age=0"} | resource.headers
        return web.Response(body=resource.body, status=resource.status, headers=headers)


def page(body: str, *, title: str, head: str, errors: str, nonce: str = NONCE) -> bytes:
    """A document. `errors` is the URL that problems on it are reported to."""
    watch = WATCH.replace("ERRORS", json.dumps(errors))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<link rel="icon" href="data:,">\n<script nonce="{nonce}">{watch}</script>\n{head}\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    ).encode()


def script_tag(src: str, attributes: dict[str, Any]) -> str:
    """The tag of the tracker. An attribute is `data-` and its name; True has no value, None is left out."""
    given = "".join(
        f" data-{name}" if value is True else f' data-{name}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return f'<script defer src="{src}"{given}></script>'


def with_harness(csp: str, errors: str) -> str:
    """A content security policy that also lets the page watch itself: its first script, and the reports of that."""
    directives = [each.strip() for each in csp.split(";") if each.strip()]
    more = {"script-src": f"'nonce-{NONCE}'", "connect-src": errors, "img-src": "data:"}
    changed = []
    for directive in directives:
        name, _, sources = directive.partition(" ")
        if name in more:
            sources = f"{'' if sources == chr(39) + 'none' + chr(39) else sources} {more.pop(name)}"
        changed.append(f"{name} {sources}".strip())
    if any(each.startswith("default-src") for each in directives):
        changed += [f"{name} {source}" for name, source in more.items()]
    return "; ".join(changed)
