"""Batches: what an event costs if many come in one request, and how long a batch holds the event loop.

A server with a key sends batches over one connection, each as soon as the one before is answered. Single requests of
the same events, from 128 connections, are measured in turn with them. CPU time per event is that of bench/peak.py.

The last run sends single requests at a low fixed rate, first alone and then beside batches.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from rich.console import Console

from bench.batch_load import sending
from bench.batch_requests import Form, write_batches
from bench.compare import in_order
from bench.growth import with_settings
from bench.openloop import Paced, run_paced
from bench.peak import LAG, Shape, buckets, lag_of, measured, peak
from bench.requests import write_requests
from bench.results import Result
from bench.server import NoResult
from bench.subject import Setup, collecting
from bench.wrk import Load
from collector.sender_keys import fingerprint, new_key

MOST_EVENTS = 10_000
LARGEST_BYTES = 16 << 20  # of `server.max_batch_bytes`
SINGLE = "single requests"

LARGEST = Form("10,000, 16 MiB allowed", MOST_EVENTS, LARGEST_BYTES)
FORMS = (
    LARGEST,
    Form("as many as 4 MiB hold", MOST_EVENTS),
    Form("the same as a JSON array", MOST_EVENTS, is_array=True),
    Form("the same with gzip", MOST_EVENTS, is_gzip=True),
    Form("with address and user agent", MOST_EVENTS, has_visitor=True),
    Form("1,000", 1_000),
    Form("100", 100),
    Form("10", 10),
)

# A few requests between two batches, and so few that they cost the batches nothing.
BESIDE_PER_S = 20.0
BESIDE_CONNECTIONS = 4
STARTS_WITHIN_S = 2.0  # the sender reads its file first


def batch(setup: Setup, shape: Shape, rounds: int, forms: Sequence[Form] = FORMS, beside_s: float = 20) -> list[Result]:
    """Return all runs, for each form its ratio to single requests, and the runs beside the largest batches."""
    console = Console(stderr=True, highlight=False)
    key = new_key()
    setup = replace(setup, sites=1, keys=(fingerprint(key),))
    runs: list[Result] = []
    for number in range(rounds):
        for pair, form in in_order(forms, number):
            title = form.title if form else SINGLE
            labelled = replace(shape, labels={"kind": "run", "title": title, "round": number, "pair": pair})
            run = batched(setup, labelled, form, key) if form else peak(setup, labelled)
            runs.append(run)
            console.print(f"{title:>28}: {run['cpu_us_per_event']:6.1f} us, {run['per_second']:9,.0f} events/s")
    return [*runs, *ratios(runs), *beside(setup, shape, forms[0], key, beside_s)]


def batched(setup: Setup, shape: Shape, form: Form, key: str) -> Result:
    """Send batches of this form. Raises NoResult if a batch is refused, or an event is lost."""
    setup = with_settings(setup, "server", max_batch_bytes=form.max_bytes)
    with tempfile.TemporaryDirectory(dir=shape.folder) as name:
        folder = Path(name)
        requests = folder / "batches"
        written = write_batches(requests, form, key, shape.requests, shape.size_bytes, shape.seed)
        with collecting(folder, setup) as collector:

            def load(seconds: float, start: int) -> Load:
                with sending(collector.url, requests, seconds, start=start, cores=shape.load_cores) as sender:
                    return all_stored(sender.load())

            run = measured(collector, replace(shape, connections=1), load)
    return {**shape.labels, **asdict(written), **run}


def all_stored(load: Load) -> Load:
    """Raises NoResult if a batch was refused, or not all of its events were stored."""
    if load.not_2xx:
        raise NoResult(f"{load.not_2xx:,} of {load.sent:,} batches were not stored as a whole")
    return load


def ratios(runs: Sequence[Result]) -> list[Result]:
    """Divide the CPU time per event of each form by that of the single requests of its pair."""
    of: dict[str, dict[tuple[int, int], float]] = {}
    for run in runs:
        of.setdefault(run["title"], {})[run["round"], run["pair"]] = run["cpu_us_per_event"]
    single = of.pop(SINGLE)
    found = []
    for title, cpu_us in of.items():
        each = [ours / single[pair] for pair, ours in cpu_us.items()]
        bounds = {"lowest": min(each), "highest": max(each)}
        found.append({"kind": "ratio", "title": title, "cpu_ratio": median(each), **bounds})
    return found


def beside(setup: Setup, shape: Shape, form: Form, key: str, seconds: float) -> list[Result]:
    """Send single requests at a low rate, alone and then beside batches. Raises NoResult."""
    setup = with_settings(setup, "server", max_batch_bytes=form.max_bytes)
    with tempfile.TemporaryDirectory(dir=shape.folder) as name:
        folder = Path(name)
        singles, batches = folder / "requests", folder / "batches"
        write_requests(singles, shape.requests, 1, shape.size_bytes, shape.seed)
        written = write_batches(batches, form, key, shape.requests, shape.size_bytes, shape.seed)
        with collecting(folder, setup) as collector:

            def paced(seconds: float) -> Paced:
                rate, connections = BESIDE_PER_S, BESIDE_CONNECTIONS
                run = run_paced(collector.url, singles, rate, seconds, connections=connections, cores=shape.load_cores)
                if run.acknowledged != run.planned:
                    raise NoResult(f"{run.planned - run.acknowledged:,} single requests were not stored")
                return run

            none = buckets(collector, LAG)
            alone = paced(seconds)
            before = buckets(collector, LAG)
            load_s = STARTS_WITHIN_S + seconds
            with sending(collector.url, batches, load_s, cores=shape.load_cores) as sender:
                early = paced(STARTS_WITHIN_S)
                both = paced(seconds - 1)  # the load lasts longer, even if the sender starts at once
                after = buckets(collector, LAG)
                load = all_stored(sender.load())
            collector.finish(sum(run.acknowledged for run in (alone, early, both, load)))
    labels = {"kind": "beside", "rate_per_second": BESIDE_PER_S}
    return [
        {**labels, "title": "alone", **_waits(alone), "event_loop_lag": lag_of(_between(none, before))},
        {
            **labels,
            "title": f"beside batches of {written.events_per_batch:,.0f}",
            **_waits(both),
            "event_loop_lag": lag_of(_between(before, after)),
            "batches_per_second": load.sent / load.seconds,
            "batch_p50_ms": load.p50_ms,
        },
    ]


def _waits(run: Paced) -> Result:
    quantiles = run.quantiles
    return {"requests": run.acknowledged} | {f"{name}_ms": quantiles[name] for name in ("p50", "p99", "p100")}


def _between(before: dict[float, float], after: dict[float, float]) -> dict[float, float]:
    """The buckets of what a histogram counted between two scrapes."""
    return {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
