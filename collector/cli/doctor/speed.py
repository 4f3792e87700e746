"""Measured here and now: how long this disk takes to sync, and what an event costs this CPU.

The files are in `staging/`, whose folders a start of the collector sweeps: killed half way, nothing is left for long.
Where data_dir is not there yet, they are in a folder of the system's naming beside it.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import ujson

from collector.cli.doctor.machine import Folder
from collector.clock import SystemClock
from collector.config import Config, SiteSettings
from collector.daemon.wiring import Stages, build_stages
from collector.daemon.worker import warm_up
from collector.events import Event
from collector.journal.record import encode
from collector.parts.naming import STAGING
from collector.parts.table import to_batch

COMMIT_BYTES = 16_384  # a group of 16 events of 1 KB, as 5,000 events a second have it
COMMITS = 300
COMMIT_S = 3.0  # the longest that is measured, however few commits that is
WRITE_BYTES = 32 << 20
WRITE_S = 2.0
CHUNK_BYTES = 1 << 20
CPU_S = 1.5
EVENTS = 1_024
ROWS_PER_BATCH = 256
SITE = "doctor"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpeed:
    """How the disk of data_dir writes."""

    commit_s: tuple[float, ...] = ()  # sorted: an append of COMMIT_BYTES and its sync
    bytes_per_s: float = 0.0  # written in one piece and synced
    error: str | None = None  # what cannot be done there, and why

    def commit_at(self, quantile: float) -> float:
        """So much of the commits took no longer."""
        return self.commit_s[min(len(self.commit_s) - 1, int(quantile * len(self.commit_s)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSpeed:
    """What an event takes of one core, as far as it was measured."""

    request_s: float  # from the bytes of a request to the bytes of its answer
    row_s: float  # its record in the journal, its columns, its part of a part
    record_bytes: int
    part_bytes: float  # in a part of EVENTS rows


def measure_disk(folder: Folder) -> DiskSpeed:
    """Append and sync, link and sync the folder, as the journal and a flush do. Some seconds at most."""
    try:
        with _own_folder(folder) as own:
            bytes_per_s = _write(own / "written")
            step = "hard links"
            try:
                os.link(own / "written", own / "linked")
                step = "sync of a folder"
                descriptor = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as exc:
                return DiskSpeed(error=f"{step}: {exc.strerror}")
            return DiskSpeed(commit_s=tuple(sorted(_commits(own / "commits"))), bytes_per_s=bytes_per_s)
    except OSError as exc:
        return DiskSpeed(error=f"{exc.strerror}: {exc.filename or folder.path}")


@contextmanager
def _own_folder(folder: Folder) -> Iterator[Path]:
    staging = folder.path / STAGING
    swept = folder.is_data_dir and staging.is_dir()
    own = Path(mkdtemp(prefix="doctor-" if swept else ".collector-doctor-", dir=staging if swept else folder.path))
    try:
        if os.geteuid() == 0:
            os.chown(own, folder.owner, -1)  # so that whoever sweeps it, can
        yield own
    finally:
        rmtree(own, ignore_errors=True)


def _commits(path: Path) -> list[float]:
    """Seconds of each."""
    data = os.urandom(COMMIT_BYTES)
    took: list[float] = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        until = time.perf_counter() + COMMIT_S
        while len(took) < COMMITS and (began := time.perf_counter()) < until:
            os.write(descriptor, data)
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
    return took


def _write(path: Path) -> float:
    """Bytes a second, the sync at the end included."""
    chunk, written = os.urandom(CHUNK_BYTES), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        began = time.perf_counter()
        while written < WRITE_BYTES and time.perf_counter() < began + WRITE_S:
            written += os.write(descriptor, chunk)
        os.fdatasync(descriptor)
        return written / (time.perf_counter() - began)
    finally:
        os.close(descriptor)


def measure_cpu(config: Config) -> CpuSpeed:
    """Answer requests by the collector's own code, for a second or so, in this process and without a socket."""
    quiet = config.model_copy(
        update={
            "storage": config.storage.model_copy(update={"durability": "memory", "segment_max_bytes": 1 << 30}),
            "rate_limit": config.rate_limit.model_copy(update={"burst": 10_000_000}),
            "server": config.server.model_copy(update={"fast_path": True, "max_body_bytes": 65_536}),
            "privacy": config.privacy.model_copy(update={"client_ip": "none"}),
            "sites": {SITE: SiteSettings()},
        }
    )
    warm_up()
    requests = [sample_request(number) for number in range(EVENTS)]
    kept: list[Event] = []
    answered: list[bytes] = []
    records: list[bytes] = []
    parts: list[int] = []

    def fresh() -> Stages:
        # Of every pass its own, for their memory; what is remembered of heads comes back within a hundred requests.
        kept.clear()
        answered.clear()
        return build_stages(quiet, SystemClock())

    def answer_all(stages: Stages) -> None:
        fast_path = stages.ordinary
        assert fast_path is not None
        for request in requests:
            found = fast_path.find(request)
            assert found is not None
            fast_path.answer(found, "127.0.0.1", lambda data, close: answered.append(data))

    def keep_all(events: list[Event]) -> None:
        records[:] = [encode(event, 1) for event in events]
        rows = [event.row for event in events]
        batches = [to_batch(rows[at : at + ROWS_PER_BATCH]) for at in range(0, len(rows), ROWS_PER_BATCH)]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_batches(batches), sink, compression="zstd")
        parts.append(sink.getvalue().size)

    request_s = _cpu_s(fresh, answer_all, CPU_S * 2 / 3)
    assert all(answer.startswith(b"HTTP/1.1 201") for answer in answered), answered[0]
    stages = fresh()
    stages.journal.submit = lambda event, on_commit: kept.append(event)  # type: ignore[method-assign]  # no disk
    answer_all(stages)
    row_s = _cpu_s(lambda: kept, keep_all, CPU_S / 3)
    return CpuSpeed(
        request_s=request_s,
        row_s=row_s,
        record_bytes=sum(map(len, records)) // EVENTS,
        part_bytes=parts[-1] / EVENTS,
    )


def _cpu_s(prepare: Callable[[], T], step: Callable[[T], None], seconds: float) -> float:
    """CPU time of an event, by the best of the passes that fit: what disturbs one only makes it slower."""
    until, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < until or best == float("inf"):
        prepared = prepare()
        began = time.process_time()
        step(prepared)
        best = min(best, time.process_time() - began)
    return best / EVENTS


def sample_request(number: int) -> bytes:
    """A request of some 1.1 KB as a browser sends it, with an event of 25 fields; no two alike."""
    event = {
        "session_id": f"{number * 2654435761 % 2**32:024x}",
        "visitor_id": f"{number * 40503 % 2**32:032x}",
        "visitor_id_source": ("cookie", "fingerprint", "hybrid")[number % 3],
        "event_type": ("pageview", "scroll", "cwv", "heartbeat")[number % 4],
        "page_url": f"https://www.example.com/products/{number % 977}?ref={number}",
        "page_path": f"/products/{number % 977}",
        "event_time": f"2026-05-12T10:{number // 60 % 60:02}:{number % 60:02}.123Z",
        "page_title": f"Page {number % 977} of the shop",
        "page_referrer": None if number % 2 else "https://search.example.org/",
        "device_type": ("desktop", "mobile", "tablet")[number % 3],
        "browser": ("Chrome", "Firefox", "Safari")[number % 3],
        "browser_version": f"{100 + number % 40}.0",
        "os": ("Windows", "macOS", "Android", "iOS")[number % 4],
        "language": ("en-US", "fr-FR", "de-DE")[number % 3],
        "timezone": "Europe/Paris",
        "is_entry": number % 3 == 0,
        "visible": True,
        "screen_width": 800 + number % 1200,
        "screen_height": 600 + number % 900,
        "viewport_width": 700 + number % 1200,
        "viewport_height": 500 + number % 900,
        "scroll_depth": number % 101,
        "time_on_page": number * 37 % 90_000 / 10,
        "lcp": number * 53 % 50_000 / 10,
        "ttfb": number * 11 % 9_000 / 10,
    }
    body = ujson.dumps(event, escape_forward_slashes=False).encode()
    head = (
        f"POST /public/{SITE}/analytics/collect HTTP/1.1",
        "Host: collect.example.com",
        f"Content-Length: {len(body)}",
        f"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/{100 + number % 40}.0.0.0 Safari/537.36",
        "Accept-Encoding: gzip, deflate, br",
        "Accept-Language: en-US,en;q=0.9",
        "Content-Type: text/plain;charset=UTF-8",
        "Accept: */*",
        "Origin: https://www.example.com",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: no-cors",
        "Referer: https://www.example.com/",
    )
    return "\r\n".join((*head, "", "")).encode() + body
