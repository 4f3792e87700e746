"""A client of W3C WebDriver: one session of a browser, driven through its driver (https://www.w3.org/TR/webdriver2/).

Every method is one command or a short chain of them. What the driver refuses is a WebDriverError with its words.
Pointer and keys are real input: they are trusted, go through the browser's event loop, and move focus.
"""

import base64
import errno
import http.client
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_S = 30.0  # longest a driver may take over one command
SCRIPT_S = 20.011  # longest a script may take; odd, so that a page with a clock can tell the driver's timeout (site.py)
PAGE_S = 20.0  # longest a page may take to load
ALERT_S = 5.0  # longest a dialog may take to come up
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id in JSON, fixed by the standard

Point = tuple[int, int]


class WebDriverError(Exception):
    """The driver refused a command. `code` is the standard's name of the error, such as `no such element`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Key:
    """Keys that are no characters, by the standard's code points."""

    CANCEL, BACKSPACE, TAB, ENTER, SHIFT, CONTROL, ALT, META, ESCAPE, SPACE = (
        chr(0xE000 + code) for code in (0x01, 0x03, 0x04, 0x07, 0x08, 0x09, 0x0A, 0x3D, 0x0C, 0x0D)
    )
    PAGE_UP, PAGE_DOWN, END, HOME, LEFT, UP, RIGHT, DOWN = (chr(0xE00E + n) for n in range(8))


@dataclass(frozen=True, slots=True)
class Element:
    """An element of the current page."""

    browser: "Browser"
    id: str

    def click(self) -> None:
        """Scroll to it, and click its middle."""
        self._post("click")

    def type(self, text: str) -> None:
        """Focus it, and type."""
        self._post("value", {"text": text})

    def clear(self) -> None:
        self._post("clear")

    def text(self) -> str:
        return str(self.browser.command("GET", f"element/{self.id}/text"))

    def attribute(self, name: str) -> str | None:
        value = self.browser.command("GET", f"element/{self.id}/attribute/{name}")
        return None if value is None else str(value)

    def _post(self, verb: str, body: dict[str, Any] | None = None) -> None:
        self.browser.command("POST", f"element/{self.id}/{verb}", body or {})


class Browser:
    """A session: one browser with its windows. A window is a tab or a window; its handle names it."""

    def __init__(self, port: int, capabilities: dict[str, Any]) -> None:
        """Start a session. Raises WebDriverError if the browser does not start."""
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=COMMAND_S)
        started = self._request("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.session_id: str = started["sessionId"]
        self.capabilities: dict[str, Any] = started["capabilities"]
        self.first_window = self.window
        self.command("POST", "timeouts", {"script": round(SCRIPT_S * 1000), "pageLoad": round(PAGE_S * 1000)})

    # The protocol

    def command(self, method: str, path: str = "", body: dict[str, Any] | None = None) -> Any:
        """One command of this session; returns the value that the driver answers with."""
        return self._request(method, f"/session/{self.session_id}/{path}".rstrip("/"), body)

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        payload = None if body is None else json.dumps(body).encode()
        for attempt in (1, 2):
            try:
                self._connection.request(method, path, payload, {"Content-Type": "application/json; charset=utf-8"})
                response = self._connection.getresponse()
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # The driver closed an idle connection. The command was not run, so it is sent again.
                self._connection.close()
                if attempt == 2:
                    raise
        text = response.read()
        if response.will_close:
            self._connection.close()
        value = json.loads(text or "{}").get("value")
        if response.status != 200:
            raise WebDriverError(value["error"], value["message"].strip())
        return value

    def quit(self) -> None:
        """End the session, which ends the browser."""
        try:
            self.command("DELETE")
        finally:
            self._connection.close()

    # Pages

    def open(self, url: str) -> None:
        """Navigate, and wait for the load event."""
        self.command("POST", "url", {"url": url})

    @property
    def url(self) -> str:
        return str(self.command("GET", "url"))

    @property
    def title(self) -> str:
        return str(self.command("GET", "title"))

    def back(self) -> None:
        self.command("POST", "back", {})

    def forward(self) -> None:
        self.command("POST", "forward", {})

    def reload(self) -> None:
        self.command("POST", "refresh", {})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function; returns what it returns. A promise is awaited.

        Firefox runs it in a sandbox over the page: `window.x = 1` changes the page, `x = 1` does not.
        """
        return self._value(
            self.command("POST", "execute/sync", {"script": script, "args": [_argument(each) for each in arguments]})
        )

    def run_async(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function, and wait until it calls its last argument; returns what it hands over."""
        return self._value(
            self.command("POST", "execute/async", {"script": script, "args": [_argument(each) for each in arguments]})
        )

    def _value(self, value: Any) -> Any:
        return Element(self, value[ELEMENT]) if isinstance(value, dict) and ELEMENT in value else value

    def find(self, selector: str) -> Element:
        """The first element that a CSS selector matches."""
        return Element(self, self.command("POST", "element", {"using": "css selector", "value": selector})[ELEMENT])

    def screenshot(self, path: Path) -> None:
        """Write the viewport to a PNG file."""
        path.write_bytes(base64.b64decode(self.command("GET", "screenshot")))

    # Input

    def pointer(self, *steps: dict[str, Any], keys: str = "") -> None:
        """Run these steps of the mouse, while `keys` (modifiers) are held down."""
        # One command, in ticks: WebKitGTK forgets keys that an earlier command pressed.
        held = [{"type": "keyDown", "value": key} for key in keys]
        released = [{"type": "keyUp", "value": key} for key in reversed(keys)]
        wait = {"type": "pause"}
        mouse = [*[wait] * len(keys), *steps]
        devices: list[dict[str, Any]] = [
            {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": mouse}
        ]
        if keys:
            devices.append({"type": "key", "id": "keyboard", "actions": [*held, *[wait] * len(steps), *released]})
        self.command("POST", "actions", {"actions": devices})

    def move(self, to: str | Element | Point, offset: Point = (0, 0)) -> None:
        self.pointer(self._move(to, offset))

    def click(
        self,
        at: str | Element | Point | None = None,
        *,
        button: int = 0,
        times: int = 1,
        keys: str = "",
        offset: Point = (0, 0),
        pause_ms: int = 0,
    ) -> None:
        """Click at a point of the viewport, or at the middle of an element, which is scrolled to first.

        `button`: 0 left, 1 middle, 2 right. `times` clicks, `pause_ms` apart. None: where the pointer is. In WebKitGTK
        a click at the same place counts on (`detail`) from those of the last half second, also from earlier commands.
        """
        steps = [] if at is None else [self._move(at, offset)]
        for n in range(times):
            if n and pause_ms:
                steps.append({"type": "pause", "duration": pause_ms})
            steps += [{"type": "pointerDown", "button": button}, {"type": "pointerUp", "button": button}]
        self.pointer(*steps, keys=keys)

    def double_click(self, at: str | Element | Point) -> None:
        self.click(at, times=2)

    def drag(self, start: str | Element | Point, end: str | Element | Point) -> None:
        """Press at `start`, move to `end` and release: selects text, for example."""
        self.pointer(
            self._move(start),
            {"type": "pointerDown", "button": 0},
            self._move(end),
            {"type": "pointerUp", "button": 0},
        )

    def wheel(self, pixels: int, at: Point = (100, 100)) -> None:
        """Turn the wheel over a point of the viewport; positive is down."""
        scroll = {"type": "scroll", "x": at[0], "y": at[1], "deltaX": 0, "deltaY": pixels, "origin": "viewport"}
        self._act("wheel", [scroll | {"duration": 0}])

    def press(self, *keys: str, hold: str = "") -> None:
        """Press and release each key, while the keys `hold` are down. A text is typed where the focus is."""
        steps = [{"type": "keyDown", "value": key} for key in hold]
        for key in "".join(keys):
            steps += [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        steps += [{"type": "keyUp", "value": key} for key in reversed(hold)]
        self._act("key", steps)

    def release(self) -> None:
        """Release every key and button that is still down."""
        self.command("DELETE", "actions")

    def _move(self, to: str | Element | Point, offset: Point = (0, 0)) -> dict[str, Any]:
        if isinstance(to, tuple):
            origin: Any = "viewport"
            x, y = to[0] + offset[0], to[1] + offset[1]
        else:
            element = self.find(to) if isinstance(to, str) else to
            self.run("arguments[0].scrollIntoView({block: 'nearest', inline: 'nearest', behavior: 'instant'})", element)
            origin, (x, y) = {ELEMENT: element.id}, offset
        return {"type": "pointerMove", "x": x, "y": y, "origin": origin, "duration": 0}

    def _act(self, kind: str, steps: Sequence[dict[str, Any]]) -> None:
        device = {"key": "keyboard", "wheel": "wheel"}[kind]
        self.command("POST", "actions", {"actions": [{"type": kind, "id": device, "actions": steps}]})

    # Windows and frames

    @property
    def window(self) -> str:
        return str(self.command("GET", "window"))

    @property
    def windows(self) -> list[str]:
        return list(self.command("GET", "window/handles"))

    def new_window(self, kind: str = "tab") -> str:
        """Open a `tab` or a `window`; returns its handle. The session stays in the present one."""
        return str(self.command("POST", "window/new", {"type": kind})["handle"])

    def switch(self, window: str) -> None:
        """Go on in another window, and bring it to the front where the engine does."""
        self.command("POST", "window", {"handle": window})

    def close(self) -> None:
        """Close this window. The session has no current window then: switch."""
        self.command("DELETE", "window")

    @contextmanager
    def other_window(self, kind: str = "tab") -> Iterator[str]:
        """A new window in front. It is closed at the end, and the session returns to the present one."""
        here = self.window
        there = self.new_window(kind)
        self.switch(there)
        try:
            yield there
        finally:
            self.close()
            self.switch(here)

    def resize(self, width: int, height: int) -> None:
        self.command("POST", "window/rect", {"width": width, "height": height})

    def minimise(self) -> None:
        self.command("POST", "window/minimize", {})

    @contextmanager
    def frame(self, selector: str) -> Iterator[None]:
        """Inside a frame of the page."""
        self.command("POST", "frame", {"id": {ELEMENT: self.find(selector).id}})
        try:
            yield
        finally:
            self.command("POST", "frame", {"id": None})

    # Alerts and cookies

    def accept_alert(self) -> str:
        """Wait for a dialog of the page, and accept it; returns its text."""
        text = self.alert_text()
        self.command("POST", "alert/accept", {})
        return text

    def alert_text(self) -> str:
        until = time.monotonic() + ALERT_S
        while True:
            try:
                return str(self.command("GET", "alert/text"))
            except WebDriverError as error:
                if error.code != "no such alert" or time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def dismiss_alert(self) -> None:
        self.command("POST", "alert/dismiss", {})

    def cookies(self) -> dict[str, dict[str, Any]]:
        """The cookies of the page, by name."""
        return {cookie["name"]: cookie for cookie in self.command("GET", "cookie")}

    def delete_cookies(self) -> None:
        """Delete the cookies of the page."""
        self.command("DELETE", "cookie")

    def cdp(self, command: str, **parameters: Any) -> dict[str, Any]:
        """A command of the Chrome DevTools Protocol. Chromium only."""
        result: dict[str, Any] = self.command("POST", "goog/cdp/execute", {"cmd": command, "params": parameters})
        return result


def _argument(value: Any) -> Any:
    return {ELEMENT: value.id} if isinstance(value, Element) else value


def free_port() -> int:
    """A port that was free a moment ago; a driver takes no socket. Free for IPv6 too, which chromedriver insists on."""
    while True:
        with socket.socket() as probe, socket.socket(socket.AF_INET6) as probe6:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            try:
                probe6.bind(("::1", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
            return port
