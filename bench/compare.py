"""Comparison: the collector and each rival in turn, in one run, on the same cores.

CPU time is measured as in bench/peak.py: all processes, from the end of the warm-up to their exit. Every rival runs
directly before or after the collector, and their ratio is of these two runs. Every other round runs in reverse, so
neither side always runs later. The result is the median over the rounds, with the extremes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from rich.console import Console

from bench.peak import WARM_UP_S, Shape, peak
from bench.requests import framed, read_requests, write_requests
from bench.results import Result
from bench.rivals import RIVALS, Rival
from bench.server import MemoryWatch, NoResult
from bench.subject import Setup
from bench.wrk import run_wrk

OURS = "collector"

T = TypeVar("T")


def compare(setup: Setup, shape: Shape, rounds: int) -> list[Result]:
    """Return the versions of each installed rival, a `skipped` entry for each missing one, all runs, and the ratios."""
    console = Console(stderr=True, highlight=False)
    present: list[Rival] = []
    results: list[Result] = []
    for rival in RIVALS:
        entry = {"name": rival.name, "title": rival.title}
        missing = rival.missing()
        if missing:
            console.print(f"{rival.title} is left out: {missing}")
            results.append({"kind": "skipped", **entry, "why": missing})
        else:
            present.append(rival)
            results.append({"kind": "versions", **entry, "versions": rival.versions()})
    for number in range(rounds):
        for pair, rival_or_ours in in_order(present, number):
            if rival_or_ours is None:
                run = peak(setup, replace(shape, labels={"kind": "run", "name": OURS, "title": "the collector"}))
            else:
                run = _rival(rival_or_ours, setup, shape)
            run |= {"round": number, "pair": pair}
            results.append(run)
            console.print(f"{run['title']:>28}: {run['cpu_us_per_event']:6.1f} us, {run['per_second']:9,.0f} events/s")
    return [*results, *ratios(results)]


def in_order(others: Sequence[T], number: int) -> list[tuple[int, T | None]]:
    """Return what a round runs, and the pair that each run belongs to. None is what the others are compared with.

    One run of it serves the others on both sides.
    """
    order: list[tuple[int, T | None]] = []
    for pair, at in enumerate(range(0, max(1, len(others)), 2)):
        order += [(pair, other) for other in (*others[at : at + 1], None, *others[at + 1 : at + 2])]
    return order[::-1] if number % 2 else order


def ratios(results: Sequence[Result]) -> list[Result]:
    """Divide the collector's CPU time per event by each rival's, pair by pair."""
    of: dict[str, dict[tuple[int, int], float]] = {}
    titles: dict[str, str] = {}
    for run in results:
        if run["kind"] == "run":
            of.setdefault(run["name"], {})[run["round"], run["pair"]] = run["cpu_us_per_event"]
            titles[run["name"]] = run["title"]
    found = []
    for name, theirs in of.items():
        if name != OURS:
            each = [of[OURS][pair] / cpu_us for pair, cpu_us in theirs.items()]
            bounds = {"lowest": min(each), "highest": max(each)}
            found.append({"kind": "ratio", "name": name, "title": titles[name], "cpu_ratio": median(each), **bounds})
    return found


def _rival(rival: Rival, setup: Setup, shape: Shape) -> Result:
    with tempfile.TemporaryDirectory(dir=shape.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx started as root runs its worker as another user
        requests = folder / "requests"
        write_requests(requests, shape.requests, setup.sites, shape.size_bytes, shape.seed)
        if rival.json_only:
            as_json(requests)
        with rival.serving(folder, setup.cores) as server:
            load = partial(
                run_wrk,
                server.url,
                requests,
                connections=shape.connections,
                threads=shape.load_threads,
                cores=shape.load_cores,
            )
            warm = load(WARM_UP_S)
            before = server.cpu_s()
            with MemoryWatch(server.pid) as memory:
                run = load(shape.seconds, start=warm.sent)
            server.stop()
            if run.not_2xx:
                raise NoResult(f"{rival.title} rejected {run.not_2xx:,} valid events")
            stored, acknowledged = rival.stored(folder), warm.acknowledged + run.acknowledged
            if stored not in (None, acknowledged):
                raise NoResult(f"{rival.title} acknowledged {acknowledged:,} events with 2xx but stored {stored:,}")
            return {
                "kind": "run",
                "name": rival.name,
                "title": rival.title,
                "events": run.acknowledged,
                "per_second": run.per_second,
                "per_minute": run.per_second * 60,
                "cpu_us_per_event": ((server.ended_cpu_s or 0.0) - before) / run.acknowledged * 1e6,
                "p50_ms": run.p50_ms,
                "p99_ms": run.p99_ms,
                "rss_peak_mb": memory.peak_bytes / 1e6,
            }


def as_json(path: Path) -> None:
    """Rewrite a request file so that every request has `Content-Type: application/json`."""
    path.write_bytes(
        framed(request.replace(b"text/plain;charset=UTF-8", b"application/json", 1) for request in read_requests(path))
    )
