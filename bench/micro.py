"""Micro: each stage on its own, in one process, in CPU microseconds per event.

The sum of the stages is less than the cost of an event, which also includes the event loop, system calls and cache
misses. Use these figures to locate a regression.
"""

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser

from bench.requests import header, requests, site_name
from bench.results import Result
from bench.sample import bodies
from bench.server import ROOT, NoResult, environment
from bench.stages import EVENTS, EVENTS_PER_COMMIT, ROWS_PER_BATCH, STAGES
from collector.addresses import AddressSet, parse_network
from collector.clock import US_PER_DAY, SystemClock
from collector.config import RateLimit, SiteSettings
from collector.edge.client_ip import Peers
from collector.edge.fast_path import END, FastPath
from collector.edge.opt_out import not_opted_out
from collector.edge.rate_limit import TokenBuckets
from collector.edge.routes import Routes
from collector.edge.split import split
from collector.events import Event
from collector.ingest.daily_key import DailyKeys
from collector.ingest.enrich import client_ip_policy
from collector.ingest.pipeline import (
    Arrival,
    accept,
    ip_not_excluded,
    not_bot,
    not_localhost,
    origin_allowed,
    to_row,
    tracking_enabled,
)
from collector.ingest.reader import read as read_event
from collector.ingest.schema import check, parse
from collector.ingest.sender import accept_from_sender
from collector.journal.record import encode
from collector.journal.segment import SegmentStore
from collector.parts.naming import new_segment_id
from collector.parts.section import Section
from collector.parts.table import to_batch
from collector.parts.writer import PartWriter
from collector.publish.local import Folders
from collector.sites import build_site

REPEATS = 5
NOON_US = 1_780_000_000_000_000
_SETTINGS = {
    "allowed_origins": [f"https://www.{site_name(0)}.example", f"*.{site_name(0)}.example"],
    "excluded_ips": ["192.0.2.7", "198.51.100.0/24", "2001:db8:dead::/48"],
    "excluded_paths": ["/preview", "/admin/*"],
}


def micro(python: str = sys.executable) -> list[Result]:
    """Measure every stage, in the order an event passes them. Another `python` needs aiohttp, pyarrow and rich."""
    if python == sys.executable:
        return asyncio.run(_micro())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "micro.json"
        command = [python, "-m", "bench", "micro", "--json", str(path)]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise NoResult(f"{python} cannot run the stages:\n{done.stderr}")
        runs: list[Result] = json.loads(path.read_text())["runs"]
        return runs


async def _micro() -> list[Result]:
    site = build_site(site_name(0), SiteSettings.model_validate(_SETTINGS))
    heads = list(requests(EVENTS))
    forwarded = [{"x-forwarded-for": header(head, b"X-Forwarded-For") or ""} for head in heads]
    trusted = AddressSet([parse_network("127.0.0.1")])
    peers = Peers(trusted)
    clients = [peers.client("127.0.0.1", headers) for headers in forwarded]
    arrivals = [
        Arrival(site, client.address, header(head, b"Origin"), header(head, b"Referer"), header(head, b"User-Agent"))
        for client, head in zip(clients, heads, strict=True)
    ]
    private = build_site("x", SiteSettings(bots="drop", respect_gpc=True, respect_dnt=True))
    heads_read = FastPath(Routes(["e"]))
    asked = [each for head in heads if (each := heads_read.read(head, head.index(END), "127.0.0.1"))]
    for request in asked:
        request.site = private
    raw = list(bodies(EVENTS))
    buckets = TokenBuckets(RateLimit(), SystemClock())
    policy = client_ip_policy("none", DailyKeys(Path(), SystemClock()))
    read = [parse(body) for body in raw]
    events = [_event(accept(arrival, body, NOON_US, policy)) for arrival, body in zip(arrivals, raw, strict=True)]
    rows = [event.row for event in events]
    batch_of_all = b"\n".join(raw)

    def http() -> None:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16)
        for head in heads:
            parser.feed_data(head)

    def head_read() -> None:
        reader = FastPath(Routes(["e"]))
        for head in heads:
            reader.read(head, head.index(END), "127.0.0.1")

    def client_ip() -> None:
        for headers in forwarded:
            peers.client("127.0.0.1", headers)

    def rate_limit() -> None:
        for client in clients:
            buckets.take(client)

    def gate() -> None:
        for arrival in arrivals:
            for step in (tracking_enabled, not_localhost, origin_allowed, ip_not_excluded):
                step(arrival)

    def bots() -> None:
        for request in asked:
            not_opted_out(request)
            not_bot(request)

    def parsed() -> None:
        for body in raw:
            parse(body)

    def validated() -> None:
        for event, body in zip(read, raw, strict=True):
            check(event, body)

    def values() -> None:
        for event in read:
            to_row(event, NOON_US)

    def read_at_once() -> None:
        for body in raw:
            read_event(body, NOON_US)

    def accepted() -> None:
        for arrival, body in zip(arrivals, raw, strict=True):
            accept(arrival, body, NOON_US, policy)

    def batch() -> None:
        for piece in split(batch_of_all):
            for body in piece:
                accept_from_sender(site, bytes(body), NOON_US, 0, policy)

    def encoded() -> None:
        encode(events, 1)

    def columns() -> None:
        for at in range(0, len(rows), ROWS_PER_BATCH):
            to_batch(rows[at : at + ROWS_PER_BATCH])

    stages: dict[str, Callable[[], None]] = {
        "http": http,
        "head": head_read,
        "client_ip": client_ip,
        "rate_limit": rate_limit,
        "gate": gate,
        "bots": bots,
        "parse": parsed,
        "validate": validated,
        "values": values,
        "read": read_at_once,
        "accept": accepted,
        "batch": batch,
        "encode": encoded,
        "columns": columns,
    }
    found = [_timed(name, stage) for name, stage in stages.items()]
    with tempfile.TemporaryDirectory() as folder:
        found += [_timed(f"commit_{kept}", _commit(Path(folder) / kept, kept, events)) for kept in ("write", "fsync")]
        found.append(_timed("parquet", _parquet(Path(folder) / "parts", rows)))
    return found


def _commit(folder: Path, durability: str, events: Sequence[Event]) -> Callable[[], None]:
    store = SegmentStore(Folders(folder), "0", by_site=True, durability=durability)

    def commit() -> None:
        segment = store.create()
        for at in range(0, len(events), EVENTS_PER_COMMIT):
            segment.commit(segment.encode(events[at : at + EVENTS_PER_COMMIT]))
        segment.close()
        segment.path.unlink()

    return commit


def _parquet(folder: Path, rows: Sequence[list[str | float | int | bool | None]]) -> Callable[[], object]:
    writer = PartWriter(Folders(folder), "0", compression="zstd")
    writer.prepare()
    sections = [_section(rows) for _ in range(1 + REPEATS)]  # writing one frees it
    return lambda: writer.write_events(new_segment_id(), [sections.pop()], by_site=True)


def _section(rows: Sequence[list[str | float | int | bool | None]]) -> Section:
    section = Section()
    for row in rows:
        section.append((NOON_US // US_PER_DAY, site_name(0)), row, 0)
        if len(section.rows) == ROWS_PER_BATCH:
            section.to_columns(compress=False)
    return section


def _timed(name: str, stage: Callable[[], object]) -> Result:
    """Take the fastest of a few passes: disturbances only make a pass slower."""
    stage()
    spent = []
    for _ in range(REPEATS):
        gc.collect()
        began = time.process_time()
        stage()
        spent.append(time.process_time() - began)
    return {"stage": name, "what": STAGES[name], "cpu_us_per_event": min(spent) / EVENTS * 1e6}


def _event(outcome: object) -> Event:
    assert isinstance(outcome, Event), outcome
    return outcome
