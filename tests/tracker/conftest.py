"""Fixtures: the engines, one collector and one browser for all tests of a run, and a visit for each test.

Tests with the fixture `visit` run once in each chosen engine (`engines.chosen`). `make engines` runs a pytest for each
engine, side by side, with a collector of its own.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.system.process import Process, serving
from tests.tracker.engines import ENGINES, Engine, chosen, virtual_display
from tests.tracker.recorder import Recorder
from tests.tracker.site import Servers
from tests.tracker.visits import Visit
from tests.tracker.webdriver import Browser, WebDriverError

SITES = [f"s{number:04}" for number in range(2000)]  # more than there are tests
LAST = "test_rows.py"  # looks at what all other tests of its engine have stored
# On a busy machine, one of some 150 pages that Firefox leaves loses its last beacon, or is not kept in the bfcache. In
# Chromium one of 540 tests failed for a reason that was not found. pytest lists each test that it runs again.
RERUNS = {"chromium": 1, "firefox": 2, "webkit": 1}
CASES = int(os.environ.get("ENGINE_CASES", "0"))  # of each table of cases, in the short form; 0: all


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One engine after the other, so each browser starts once; the check of all rows comes last."""
    order = list(ENGINES)
    if CASES:
        seen: Counter[tuple[Path, str]] = Counter()
        left_out = []
        for item in (item for item in items if item.path.is_relative_to(Path(__file__).parent)):
            of = (item.path, item.nodeid.partition("[")[0] + str(_engine_of(item)))
            seen[of] += 1
            if seen[of] > CASES:
                left_out.append(item)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]

    def key(item: pytest.Item) -> tuple[int, bool]:
        name = _engine_of(item)
        return (order.index(name) if name in order else -1, item.path.name == LAST)

    for item in items:
        if _engine_of(item) in RERUNS:
            item.add_marker(pytest.mark.flaky(reruns=RERUNS[_engine_of(item)]))
    if items and all(item.path.is_relative_to(Path(__file__).parent) for item in items):
        items.sort(key=key)


def _engine_of(item: pytest.Item) -> str:
    spec = getattr(item, "callspec", None)
    return "" if spec is None else str(spec.params.get("engine", ""))


@dataclass
class World:
    """What all tests of a run share, and the visits that were made."""

    collector: Process
    servers: Servers
    visits: list[Visit] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def next_site(self) -> str:
        return SITES[next(self.numbers)]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A collector with a strict site for each test, and the page server in front of it."""
    sites: dict[str, dict[str, Any]] = {name: {"allow_localhost": True, "strict": True} for name in SITES}
    with serving(tmp_path_factory.mktemp("collector"), sites, storage={"flush_interval_s": 1}) as collector:
        servers = Servers(Recorder(collector.url))
        with servers.running():
            yield World(collector, servers)


@pytest.fixture(scope="session", params=chosen())
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each chosen engine in turn. An engine that is not there is a reason to skip, but CI must have it."""
    found: Engine = ENGINES[request.param]
    found.require()
    return found


@pytest.fixture(scope="session")
def display() -> Iterator[str]:
    """A virtual display, for engines that cannot do without one."""
    with virtual_display() as name:
        yield name


StartBrowser = Callable[..., AbstractContextManager[tuple[Browser, Path]]]


@pytest.fixture(scope="session")
def start_browser(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> StartBrowser:
    """Start a driver with a browser; takes capabilities to merge over the engine's. Also gives their folder."""

    @contextmanager
    def start(**capabilities: Any) -> Iterator[tuple[Browser, Path]]:
        folder = tmp_path_factory.mktemp(engine.name)
        display = request.getfixturevalue("display") if engine.needs_display else None
        with engine.driver(folder, display) as driver, driver.browser(**capabilities) as browser:
            yield browser, folder

    return start


class Shared:
    """The browser that all tests of an engine share. One that has crashed is replaced for the next test."""

    def __init__(self, start: StartBrowser) -> None:
        self._start = start
        self._running = ExitStack()
        self._started: tuple[Browser, Path] | None = None

    def browser(self) -> tuple[Browser, Path]:
        if self._started is not None:
            try:
                tidy(self._started[0])
            except (WebDriverError, OSError, HTTPException):
                self.end()
        if self._started is None:
            self._started = self._running.enter_context(self._start())
        return self._started

    def end(self) -> None:
        self._started = None
        self._running.close()


@pytest.fixture(scope="session")
def shared(start_browser: StartBrowser) -> Iterator[Shared]:
    shared = Shared(start_browser)
    yield shared
    shared.end()


def tidy(browser: Browser) -> None:
    """Close all windows but the first, and dialogs, and release keys and buttons."""
    with suppress(WebDriverError):
        browser.dismiss_alert()
    for window in browser.windows:
        if window != browser.first_window:
            browser.switch(window)
            browser.close()
    browser.switch(browser.first_window)
    browser.release()


@pytest.fixture
def visit(engine: Engine, shared: Shared, world: World, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A visit with the shared browser. At the end of the test nothing unexpected may have happened.

    Do not change the browser's profile: use `fresh_visit`.
    """
    browser, folder = shared.browser()
    visit = Visit(engine, browser, world.next_site(), world.servers, world.collector, folder, request.node.name)
    world.visits.append(visit)
    yield visit
    tidy(browser)
    visit.finish()


@pytest.fixture
def fresh_visit(
    engine: Engine, start_browser: StartBrowser, world: World, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Visit]]:
    """Makes visits with browsers of their own, which take a second or two. It takes capabilities.

    `fresh_visit(**{"moz:firefoxOptions": {"prefs": {"privacy.globalprivacycontrol.enabled": True}}})`
    """
    with ExitStack() as stack:
        made: list[Visit] = []

        def make(**capabilities: Any) -> Visit:
            browser, folder = stack.enter_context(start_browser(**capabilities))
            site = world.next_site()
            made.append(Visit(engine, browser, site, world.servers, world.collector, folder, request.node.name))
            world.visits.append(made[-1])
            return made[-1]

        yield make
        for visit in made:
            tidy(visit.browser)
            visit.finish()
