"""Traces of Chromium: which tasks of the main thread ran a script, and for how long.

An event is a JSON object of the trace format: `ph` is its phase (`X` has a duration), `ts` and `dur` are microseconds,
`tdur` is CPU time in microseconds. Pages mark where a phase of the visit begins with `performance.mark("bench:NAME")`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MARK = "bench:"
START = "start"  # the phase before the first mark
CALLS = frozenset({"EvaluateScript", "FunctionCall"})  # evaluation includes compiling

Event = dict[str, Any]
Thread = tuple[int, int]  # process and thread


@dataclass(frozen=True, slots=True)
class Task:
    """What a script did in one task of a main thread. Layout that it forced is included."""

    phase: str
    wall_ms: float
    cpu_ms: float
    evaluates: bool  # the script itself, not a callback of it


def tasks_of(events: Iterable[Event], script: str) -> list[Task]:
    """Return the tasks that ran the script, in order of time. `script` is the end of its URL.

    Left out: what goes on after an `await`, because the trace does not tell whose microtasks these are.
    """
    complete = sorted((event for event in events if event["ph"] in "XRI"), key=lambda event: event["ts"])
    marks = [event for event in complete if event["name"].startswith(MARK)]
    calls = list(_outermost(event for event in complete if event["name"] in CALLS and _url(event).endswith(script)))
    running: dict[Thread, list[Event]] = {}
    for event in complete:
        if event["name"] == "RunTask":
            running.setdefault(_thread(event), []).append(event)
    found: dict[tuple[Thread, float], list[Event]] = {}
    for call in calls:
        around = [task for task in running.get(_thread(call), ()) if _contains(task, call)]
        began = around[0]["ts"] if around else call["ts"]
        found.setdefault((_thread(call), began), []).append(call)
    return [
        Task(
            _phase(marks, each[0]["ts"]),
            sum(call["dur"] for call in each) / 1000,
            sum(call["tdur" if "tdur" in call else "dur"] for call in each) / 1000,
            "EvaluateScript" in {call["name"] for call in each},
        )
        for each in found.values()
    ]


def longest(tasks: Sequence[Task]) -> dict[str, Task]:
    """Return the task of most CPU time of each phase. The evaluation of the script is a phase, `evaluation`."""
    found: dict[str, Task] = {}
    for task in tasks:
        phase = "evaluation" if task.evaluates else task.phase
        if phase not in found or task.cpu_ms > found[phase].cpu_ms:
            found[phase] = task
    return found


def _outermost(calls: Iterable[Event]) -> Iterator[Event]:
    """Leave out calls within a call."""
    last: dict[Thread, Event] = {}
    for call in calls:
        outer = last.get(_thread(call))
        if outer is None or not _contains(outer, call):
            last[_thread(call)] = call
            yield call


def _contains(outer: Event, inner: Event) -> bool:
    return bool(outer["ts"] <= inner["ts"] and inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"])


def _phase(marks: Sequence[Event], at: float) -> str:
    before = [mark["name"].removeprefix(MARK) for mark in marks if mark["ts"] <= at]
    return before[-1] if before else START


def _thread(event: Event) -> Thread:
    return event["pid"], event["tid"]


def _url(event: Event) -> str:
    return str(event.get("args", {}).get("data", {}).get("url", ""))
