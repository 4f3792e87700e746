"""The tracker in a browser: its bytes, its tasks on the main thread, and the INP with and without it.

Tasks come from Chromium's trace, which says what ran and for how long, so they need no page without the tracker to
compare with. INP is measured in pairs of visits without a trace, with and without the tracker. Every other pair begins
with the visit without. The CPU is made four times slower by Chromium (`Emulation.setCPUThrottlingRate`).
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from bench.browser import chromium, missing, slow_down, take_trace
from bench.pages import Pages, serving
from bench.results import Result
from bench.server import ROOT, NoResult
from bench.trace import MARK, longest, tasks_of
from tests.tracker.webdriver import Browser, Key

SCRIPT = ROOT / "collector" / "tracker" / "t.js"
PAGES = ("small", "large", "form")
SLOW = 4
STEP_MS = 8  # event timings are rounded to it
SHORTEST_MS = 16  # event timings that Chromium reports
ARRIVAL_S = 20.0
INTERACTIONS = 8
PAUSE_MS = 150  # between clicks: the tracker's work after the paint is over
SETTLED_MS = 400  # after input, until the tasks that it caused are over
DEAD_MS = 2600  # until a click without effect is dead

# Interactions are what web-vitals counts: the longest event of each `interactionId`.
OBSERVE = f"""
window.interactions = {{}};
window.observer = new PerformanceObserver(list => list.getEntries().forEach(window.note = event => {{
  if (event.interactionId) interactions[event.interactionId] =
    Math.max(interactions[event.interactionId] ?? 0, event.duration);
}}));
observer.observe({{type: "event", durationThreshold: {SHORTEST_MS}}});
"""
READ = "observer.takeRecords().forEach(note); return [Object.values(interactions), performance.interactionCount]"


def tracker(
    rounds: int,
    pairs: int,
    script: Path = SCRIPT,
    pages: Sequence[str] = PAGES,
    slowdowns: Sequence[int] = (1, SLOW),
) -> list[Result]:
    """Return the sizes and versions, each visit, and the summaries. Raises NoResult without Chromium or its driver."""
    lacking = missing()
    if lacking:
        raise NoResult(lacking)
    console = Console(stderr=True, highlight=False)
    results: list[Result] = [{"kind": "bytes", **sizes(script)}]
    with serving(script) as server:
        for number in range(rounds):
            for page, slowdown in [(page, slowdown) for page in pages for slowdown in slowdowns]:
                run = _traced(server, page, slowdown) | {"round": number}
                results.append(run)
                tasks = ", ".join(f"{phase} {cpu_ms:.1f}" for phase, (_, cpu_ms) in run["tasks"].items())
                console.print(f"{page}, CPU {slowdown} times slower: {tasks} ms of CPU time")
        with chromium(traced=False) as browser:
            results.append({"kind": "versions", "Chromium": browser.capabilities["browserVersion"]})
            for page, number in [(page, number) for page in pages if page != "form" for number in range(pairs)]:
                for tracked in (True, False)[:: -1 if number % 2 else 1]:
                    run = _untraced(browser, server, page, tracked=tracked) | {"round": number}
                    results.append(run)
                    console.print(f"{page}, {'with' if tracked else 'without'} the tracker: INP {run['inp_ms']:.0f} ms")
    return [*results, *summary(results)]


def sizes(script: Path) -> Result:
    """Return the bytes of the script and of its compressed forms, and the first digits of its hash."""
    forms = {"bytes": script, "gzip_bytes": Path(f"{script}.gz"), "brotli_bytes": Path(f"{script}.br")}
    found: Result = {name: path.stat().st_size for name, path in forms.items() if path.exists()}
    return found | {"sha256": hashlib.sha256(script.read_bytes()).hexdigest()[:12]}


def summary(results: Sequence[Result]) -> list[Result]:
    """The longest task by page, slowdown and phase, and the INP by page: medians, with the extremes."""
    found: list[Result] = []
    visits: dict[tuple[str, int, str], list[tuple[float, float]]] = {}
    interactions: dict[str, dict[tuple[int, bool], Result]] = {}
    for run in results:
        if run["kind"] == "visit":
            for phase, (wall_ms, cpu_ms) in run["tasks"].items():
                visits.setdefault((run["page"], run["slowdown"], phase), []).append((wall_ms, cpu_ms))
        elif run["kind"] == "interactions":
            interactions.setdefault(run["page"], {})[run["round"], run["tracked"]] = run
    for (page, slowdown, phase), each in visits.items():
        cpus = [cpu_ms for _, cpu_ms in each]
        found.append(
            {"kind": "task", "page": page, "slowdown": slowdown, "phase": phase, "visits": len(each)}
            | {"cpu_ms": median(cpus), "lowest_ms": min(cpus), "highest_ms": max(cpus)}
            | {"wall_ms": median(wall_ms for wall_ms, _ in each)}
        )
    for page, runs in interactions.items():
        result: Result = {"kind": "inp", "page": page, "slowdown": SLOW}
        for figure, more in (("inp", "more_ms"), ("median", "median_more_ms")):
            pairs = [
                (runs[number, True][f"{figure}_ms"], runs[number, False][f"{figure}_ms"])
                for number in sorted({number for number, _ in runs})
            ]
            differences = [ours - without for ours, without in pairs]
            result[f"{figure}_with_ms"], result[f"{figure}_without_ms"] = map(median, zip(*pairs, strict=True))
            result[more] = median(differences)
            if figure == "inp":
                result |= {"lowest_ms": min(differences), "highest_ms": max(differences), "pairs": len(pairs)}
        found.append(result)
    return found


def inp_of(durations: Sequence[float], count: int) -> tuple[float, float]:
    """The INP in ms of up to 50 interactions, which is the longest, and their median.

    Interactions shorter than SHORTEST_MS are counted, but have no duration; one step is taken.
    """
    each = [*durations, *[float(STEP_MS)] * (count - len(durations))]
    if not each:
        raise NoResult("the browser counted no interactions")
    return max(each), median(each)


def _traced(server: Pages, page: str, slowdown: int) -> Result:
    """A visit that does everything, in a browser of its own: all caches are cold."""
    with chromium(traced=True) as browser:
        _open(browser, server, page, slowdown, tracked=True)
        for phase, act in phases(page, slowdown):
            browser.run("performance.mark(arguments[0])", MARK + phase)
            act(browser)
        tasks = longest(tasks_of(take_trace(browser), ".js"))
    types = server.take_types()
    if "exit" not in types:
        raise NoResult(f"the tracker did not send the exit of {page}; it sent {', '.join(types)}")
    return {
        "kind": "visit",
        "page": page,
        "slowdown": slowdown,
        "events": len(types),
        "tasks": {phase: (task.wall_ms, task.cpu_ms) for phase, task in tasks.items()},
    }


def _untraced(browser: Browser, server: Pages, page: str, *, tracked: bool) -> Result:
    """A visit with INTERACTIONS clicks and as many keys, at a four times slower CPU."""
    _open(browser, server, page, SLOW, tracked=tracked)
    browser.run(OBSERVE)
    for number in range(INTERACTIONS):
        browser.click(("#buy", "#dead")[number % 2])
        _wait(browser, PAUSE_MS)
        browser.click("#search")
        browser.press("a")
        _wait(browser, PAUSE_MS)
    _wait(browser, SETTLED_MS)
    durations, count = browser.run(READ)
    browser.open("about:blank")
    types = server.take_types()
    if tracked != ("click" in types):
        raise NoResult(f"{page} sent {len(types)} events {'with' if tracked else 'without'} the tracker")
    inp_ms, median_ms = inp_of(durations, count)
    return {
        "kind": "interactions",
        "page": page,
        "tracked": tracked,
        "inp_ms": inp_ms,
        "median_ms": median_ms,
        "interactions": count,
    }


def _open(browser: Browser, server: Pages, page: str, slowdown: int, *, tracked: bool) -> None:
    """Open the page at this speed, and wait until its start is over."""
    browser.open(f"{server.url('blank', tracked=True)}")  # its process serves the page too, so it is as slow
    slow_down(browser, slowdown)
    browser.open(server.url(page, tracked=tracked))
    if tracked and not server.wait_for("pageview", ARRIVAL_S):
        raise NoResult(f"the tracker did not send the pageview of {page}")
    _wait(browser, 1000)


Act = Callable[[Browser], None]


def phases(page: str, slowdown: int) -> list[tuple[str, Act]]:
    """What a visitor does; at full speed only the start is of interest. The exit shows that the tracker got so far."""
    if slowdown == 1:
        return [("leave", _leave)]
    steps: list[tuple[str, Act]] = [("click", _clicks), ("key", _keys), ("scroll", _scroll)]
    if page == "large":
        steps.append(("row", _row))
    if page == "form":
        steps.append(("form", _form))
    return [*steps, ("route", _route), ("hidden", _hide), ("leave", _leave)]


def _clicks(browser: Browser) -> None:
    for target in ("#buy", "#dead"):
        for _ in range(2):
            browser.click(target)
            _wait(browser, SETTLED_MS)
    _wait(browser, DEAD_MS)


def _keys(browser: Browser) -> None:
    browser.click("#search")
    browser.press("shoes", Key.TAB)
    _wait(browser, SETTLED_MS)


def _scroll(browser: Browser) -> None:
    for _ in range(12):
        browser.wheel(300)
    _wait(browser, SETTLED_MS)


def _row(browser: Browser) -> None:
    """Click in the middle of the table: its row has ROWS siblings."""
    browser.click("tr:nth-child(1500) button")
    _wait(browser, SETTLED_MS)


def _form(browser: Browser) -> None:
    browser.click("input[name=field3]")
    for _ in range(4):
        browser.press("x", Key.TAB)
    browser.click("#send")
    _wait(browser, SETTLED_MS)


def _route(browser: Browser) -> None:
    browser.click("#route")
    _wait(browser, 2 * SETTLED_MS)


def _hide(browser: Browser) -> None:
    with browser.other_window():
        pass
    _wait(browser, SETTLED_MS)


def _leave(browser: Browser) -> None:
    browser.open("about:blank")


def _wait(browser: Browser, ms: int) -> None:
    browser.run_async("setTimeout(arguments[1], arguments[0])", ms)
