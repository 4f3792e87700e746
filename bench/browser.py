"""Chromium under its driver: started for a measurement, slowed down, and traced."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from bench.server import NoResult
from tests.tracker.webdriver import Browser, WebDriverError, free_port

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
START_S = 20.0
STOP_S = 10.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,800",
    "--host-resolver-rules=MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Tasks of the main thread with the scripts that they call, and the marks of pages.
CATEGORIES = "devtools.timeline,disabled-by-default-devtools.timeline,blink.user_timing"


def missing() -> str | None:
    """Say which program is missing; None if Chromium can be driven."""
    if not any(map(shutil.which, PROGRAMS)):
        return "Chromium is missing: apt-get install chromium chromium-driver"
    return None if shutil.which(DRIVER) else "chromedriver is missing: apt-get install chromium-driver"


@contextmanager
def chromium(*, traced: bool) -> Iterator[Browser]:
    """Start Chromium with a new profile. Raises NoResult if a program is missing or does not start."""
    lacking = missing()
    if lacking:
        raise NoResult(lacking)
    program = next(path for name in PROGRAMS if (path := shutil.which(name)))
    options: dict[str, Any] = {"binary": program, "args": list(FLAGS)}
    capabilities: dict[str, Any] = {"goog:chromeOptions": options}
    if traced:
        options["perfLoggingPrefs"] = {"enableNetwork": False, "enablePage": False, "traceCategories": CATEGORIES}
        capabilities["goog:loggingPrefs"] = {"performance": "ALL"}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, _driver(Path(folder)) as port:
        try:
            browser = Browser(port, capabilities)
        except WebDriverError as exc:
            raise NoResult(f"Chromium did not start: {exc}") from exc
        try:
            yield browser
        finally:
            with suppress(WebDriverError, OSError, HTTPException):
                browser.quit()


def slow_down(browser: Browser, times: int) -> None:
    """Make the CPU of the current page so many times slower. Chromium forgets it when the page's process changes."""
    browser.cdp("Emulation.setCPUThrottlingRate", rate=times)


def take_trace(browser: Browser) -> list[dict[str, Any]]:
    """Return the trace since it was last taken."""
    messages = [
        json.loads(entry["message"])["message"] for entry in browser.command("POST", "se/log", {"type": "performance"})
    ]
    return [message["params"] for message in messages if message["method"] == "Tracing.dataCollected"]


@contextmanager
def _driver(folder: Path) -> Iterator[int]:
    """Start the driver; yields its port. It ends with all of its browsers."""
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [DRIVER, f"--port={port}", "--allowed-ips=127.0.0.1"],
            cwd=folder,
            env=os.environ | {"HOME": str(folder), "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                raise NoResult(f"{DRIVER} did not start: {(folder / 'log').read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/status")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
