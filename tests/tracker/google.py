"""Google's web-vitals on the same page as the tracker, to compare with.

It comes from npm with the tools of `tracker/` (`make tracker/node_modules/.package-lock.json`), at the version that
tracker/package.json pins.
"""

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.tracker.visits import Visit

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tracker/node_modules/web-vitals"
INSTALLED = "tracker/node_modules/.package-lock.json"  # the goal of make that installs it
INSTALL_S = 300.0

# Its values in `google.load`, and after a restore from the bfcache in `google.restored`. It has no FID any more, which
# its version 4 defined: the delay of the first input, if the page had never been hidden before it.
COLLECT = """
window.google = {load: {}, restored: {}};
for (const name of ["LCP", "CLS", "INP", "TTFB"])
  webVitals["on" + name](({navigationType, value}) => {
    window.google[navigationType === "back-forward-cache" ? "restored" : "load"][name.toLowerCase()] = value;
  });
let hiddenAt = document.hidden ? 0 : Infinity;
addEventListener("visibilitychange", event => {
  if (document.hidden) hiddenAt = Math.min(hiddenAt, event.timeStamp);
}, true);
if (PerformanceObserver.supportedEntryTypes.includes("first-input"))
  new PerformanceObserver(list => {
    for (const {processingStart, startTime} of list.getEntries())
      if (startTime < hiddenAt) window.google.load.fid = processingStart - startTime;
  }).observe({type: "first-input", buffered: true});
"""


def library() -> str:
    """The library's script. Without npm the test is skipped, but fails in CI."""
    pinned = json.loads((ROOT / "tracker/package.json").read_text())["devDependencies"]["web-vitals"]
    with open(ROOT / "tracker/package.json") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the engines' tests run side by side
        if _version() != pinned:
            if shutil.which("npm") is None:
                why = "no npm, which installs Google's web-vitals"
                pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
            subprocess.run(["make", "-B", INSTALLED], cwd=ROOT, check=True, timeout=INSTALL_S)
    return (PACKAGE / "dist/web-vitals.iife.js").read_text()


def _version() -> str | None:
    manifest = PACKAGE / "package.json"
    return json.loads(manifest.read_text())["version"] if manifest.exists() else None


def head(visit: Visit, library: str) -> str:
    """Markup that puts the library on a page of this visit."""
    visit.serve("/web-vitals.js", library, content_type="text/javascript")
    return f"<script src='/web-vitals.js'></script><script>{COLLECT}</script>"


def values(visit: Visit, when: str = "load") -> dict[str, float]:
    """What the library has reported, since the page's `load` or since it was `restored`."""
    # As text: geckodriver changes the last digit of numbers.
    found: dict[str, float] = json.loads(visit.browser.run("return JSON.stringify(window.google[arguments[0]])", when))
    return found


def ours(event: dict[str, Any]) -> dict[str, float]:
    """The values of a cwv event."""
    return {name: event[name] for name in ("lcp", "cls", "inp", "ttfb", "fid") if event.get(name) is not None}
