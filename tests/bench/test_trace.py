"""What a trace says of a script: the tasks that ran it, their phase, and how long the script took in each."""

from typing import Any

from bench.trace import Task, longest, tasks_of

OURS = "http://www.shop.example:8000/public/shop/t.js"
Event = dict[str, Any]


def event(name: str, ts: int, dur: int = 0, *, url: str = "", tid: int = 1, ph: str = "X", tdur: int = 0) -> Event:
    return {"name": name, "ph": ph, "ts": ts, "dur": dur, "tdur": tdur or dur, "pid": 7, "tid": tid} | (
        {"args": {"data": {"url": url}}} if url else {}
    )


def mark(name: str, ts: int) -> Event:
    return event(f"bench:{name}", ts, ph="I")


def call(ts: int, dur: int, **more: Any) -> Event:
    return event("FunctionCall", ts, dur, **({"url": OURS} | more))


def tasks(*events: Event) -> list[Task]:
    return tasks_of(events, "/t.js")


def test_calls_of_one_task_are_added() -> None:
    assert [Task("start", 3.0, 3.0, False)] == tasks(event("RunTask", 0, 9000), call(10, 1000), call(5000, 2000))


def test_calls_of_two_tasks_are_apart() -> None:
    assert [1.0, 2.0] == [
        task.wall_ms
        for task in tasks(event("RunTask", 0, 1500), call(10, 1000), event("RunTask", 1500, 3000), call(1600, 2000))
    ]


def test_call_within_a_call_counts_once() -> None:
    assert [Task("start", 4.0, 4.0, False)] == tasks(event("RunTask", 0, 9000), call(10, 4000), call(20, 1000))


def test_time_of_other_scripts_in_the_task_is_not_counted() -> None:
    page = call(2000, 7000, url="http://www.shop.example:8000/small")
    assert [1.0] == [task.wall_ms for task in tasks(event("RunTask", 0, 9000), call(10, 1000), page)]


def test_task_of_another_thread_is_another_task() -> None:
    """Two pages run side by side, so their events are mixed."""
    found = tasks(
        event("RunTask", 0, 9000), event("RunTask", 0, 9000, tid=2), call(10, 1000), call(20, 500, tid=2), call(30, 100)
    )
    assert [1.0, 0.5] == [task.wall_ms for task in found]


def test_phase_begins_with_its_mark() -> None:
    found = tasks(call(10, 5), mark("click", 100), call(150, 5), mark("leave", 200), call(250, 5))
    assert ["start", "click", "leave"] == [task.phase for task in found]


def test_order_of_the_trace_does_not_matter() -> None:
    """Chromium writes the events of each thread by themselves, and an event when it has ended."""
    events = [event("RunTask", 0, 90), call(10, 5), mark("click", 100), event("RunTask", 120, 90), call(150, 5)]
    assert tasks(*events) == tasks(*reversed(events))


def test_cpu_time_is_apart_from_wall_time() -> None:
    assert [Task("start", 5.0, 2.0, False)] == tasks(call(10, 5000, tdur=2000))


def test_longest_task_is_that_of_most_cpu_time() -> None:
    """One that merely waited for its core is not it."""
    waited, worked = Task("click", 80.0, 1.0, False), Task("click", 9.0, 8.0, False)
    assert {"click": worked} == longest([waited, worked])


def test_evaluation_is_a_phase_of_its_own() -> None:
    evaluation = event("EvaluateScript", 10, 3000, url=OURS)
    found = longest(tasks(event("RunTask", 0, 5000), evaluation, event("RunTask", 6000, 5000), call(6100, 1000)))
    assert {"evaluation": 3.0, "start": 1.0} == {phase: task.wall_ms for phase, task in found.items()}
