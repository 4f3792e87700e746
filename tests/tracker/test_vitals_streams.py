"""The arithmetic of the vitals beside Google's web-vitals: both get the same made-up entries.

Each stream of entries is a frame of its own, with both scripts in it. All streams are on one page.
"""

import json
import random
from typing import Any

import pytest

from tests.tracker import google
from tests.tracker.visits import Visit

# An observer that observes what `emit` makes up.
FAKE = """
(() => {
  const observers = [];
  let count = 0;
  class Observer {
    static supportedEntryTypes = ["event", "first-input", "largest-contentful-paint", "layout-shift", "paint"];
    constructor(callback) { this.callback = callback; this.types = new Set(); observers.push(this); }
    observe({type}) { this.types.add(type); }
    disconnect() { this.types.clear(); }
    takeRecords() { return []; }
  }
  window.PerformanceObserver = Observer;
  window.PerformanceEventTiming = class { get interactionId() { return 0; } };
  Object.defineProperty(performance, "interactionCount", {get: () => count});
  performance.getEntriesByName = () => [{startTime: 0.5}];
  performance.getEntriesByType = type => type === "navigation" ? [{responseStart: 0.25, activationStart: 0}] : [];
  // The library reads entries when the page is idle, each time in another order.
  window.requestIdleCallback = run => setTimeout(run);
  window.cancelIdleCallback = clearTimeout;
  window.emit = (type, ...entries) => {
    for (const entry of entries) { entry.entryType = type; count = Math.max(count, entry.count || 0); }
    for (const observer of observers) if (observer.types.has(type)) observer.callback({getEntries: () => [...entries]});
  };
})();
"""
IDLE = "setTimeout(() => { window.isIdle = true })"
Stream = list[tuple[str, list[dict[str, Any]]]]


def shifts(*of: tuple[float, float] | tuple[float, float, bool]) -> Stream:
    """Layout shifts: seconds, value, whether an input was just before."""
    return [
        ("layout-shift", [{"startTime": each[0] * 1000, "value": each[1], "hadRecentInput": len(each) > 2}])
        for each in of
    ]


def inputs(*durations: int, ids: list[int] | None = None) -> Stream:
    """Interactions of these durations in ms. Those of under 40 are only counted."""
    stream: Stream = []
    for n, duration in enumerate(durations):
        given = ids[n] if ids else n + 1
        entry = {"interactionId": given, "duration": duration, "startTime": n * 100, "processingStart": n * 100 + 3}
        entry["count"] = max((ids or [])[: n + 1]) if ids else n + 1
        if n == 0:
            stream.append(("first-input", [dict(entry)]))
        stream.append(("event", [entry]) if duration >= 40 else ("count", [entry]))
    return stream


def paints(*at: float) -> Stream:
    return [("largest-contentful-paint", [{"startTime": each, "duration": 0}]) for each in at]


def random_shifts(seed: int) -> Stream:
    chance = random.Random(seed)
    at, of = chance.random() * 3, []
    for _ in range(chance.randrange(1, 30)):
        shift = (at, chance.random() / 4)
        of.append((*shift, True) if chance.random() < 0.2 else shift)
        at += chance.choice([0.05, 0.4, 0.95, 0.999, 1.0, 1.3])
    return shifts(*of)


def random_inputs(seed: int) -> Stream:
    chance = random.Random(seed)
    durations = [8 * chance.randrange(1, 60) for _ in range(chance.randrange(1, 260))]
    return inputs(*durations, ids=sorted(chance.randrange(1, len(durations) + 1) for _ in durations))


STREAMS: dict[str, Stream] = {
    "nothing": [],
    "shift": shifts((0.2, 0.1)),
    "shifts within a second": shifts((0.2, 0.1), (1.1, 0.1)),
    "shifts a second apart": shifts((0.2, 0.1), (1.2, 0.1)),
    "worst window first": shifts((0.2, 0.5), (2.0, 0.1), (2.1, 0.1)),
    "worst window last": shifts((0.2, 0.1), (2.0, 0.2), (2.1, 0.2)),
    "window of five seconds": shifts(*((0.3 + 0.9 * n, 0.1) for n in range(8))),
    "window that begins late": shifts(*((0.9 + 0.95 * n, 0.1) for n in range(6))),
    "shift after an input": shifts((0.2, 0.1), (0.3, 0.4, True), (1.1, 0.1)),
    "paint": paints(12.5),
    "paints": paints(12.5, 80.25, 900.125),
    "input": inputs(64),
    "fast input": inputs(16),
    "inputs": inputs(48, 200, 64),
    "first input is fast": inputs(16, 48),
    "entries of one interaction": inputs(48, 80, 56, 64, ids=[1, 2, 2, 3]),
    "49 inputs": inputs(*range(40, 40 + 49 * 8, 8)),
    "50 inputs": inputs(*range(40, 40 + 50 * 8, 8)),
    "499 inputs": inputs(*range(40, 40 + 499 * 8, 8)),
    "1000 inputs, one slow": inputs(800, *[16] * 999),
    "falling": inputs(*range(800, 40, -8)),
    **{f"shifts {seed}": random_shifts(seed) for seed in range(20)},
    **{f"inputs {seed}": random_inputs(seed) for seed in range(20)},
}


@pytest.fixture(scope="session")
def library() -> str:
    return google.library()


def test_made_up_entries_give_the_values_of_web_vitals(visit: Visit, library: str) -> None:
    frames = []
    for n, stream in enumerate(STREAMS.values()):
        emit = f"<script>for (const [type, entries] of {json.dumps(stream)}) emit(type, ...entries);{IDLE}</script>"
        paint = "<script>emit('paint', {name: 'first-contentful-paint', startTime: 0.5, duration: 0});</script>"
        # The tracker comes with `defer`: the entries are made up once both scripts are there.
        late = (paint + emit).replace("<script>", "<script type=module>")
        visit.page(late, f"/{n}", before=FAKE, head=google.head(visit, library), first_party=True)
        frames.append(f"<iframe width=9 height=9 src='/{n}'></iframe>")
    visit.open("".join(frames), "/streams", tracker=False)
    visit.wait("pageview", len(frames))
    visit.until("[...document.querySelectorAll('iframe')].every(frame => frame.contentWindow.isIdle)")
    with visit.hidden():
        sent = {event["page_path"]: google.ours(event) for event in visit.wait("cwv", len(frames))}
        found = visit.browser.run(
            "return JSON.stringify([...document.querySelectorAll('iframe')]"
            ".map(({contentWindow: w}) => [w.location.pathname, w.google.load]))"
        )
    expected: dict[str, dict[str, float]] = dict(json.loads(found))
    names = dict(zip((f"/{n}" for n in range(len(frames))), STREAMS, strict=True))
    for values in sent.values():
        values.pop("fid", None)
    for values in expected.values():
        values.pop("fid", None)
    assert {names[path]: values for path, values in expected.items()} == {
        names[path]: values for path, values in sent.items()
    }
    assert {"lcp": 900.125, "cls": 0, "ttfb": 0.25} == expected[f"/{list(STREAMS).index('paints')}"]
