"""Builds the stages of one process, from the last to the first, because each stage needs the ones behind it."""

import asyncio
import errno
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import Metric

from collector.addresses import UNIX, AddressSet
from collector.clock import Clock
from collector.config import DEFAULT_COLLECT_PATH, Config
from collector.config import Server as ServerSettings
from collector.daemon.status import Stats
from collector.edge.batch import Batches
from collector.edge.client_ip import Peers
from collector.edge.decide import Decider
from collector.edge.demo import demo_files
from collector.edge.files import Files
from collector.edge.invalid_events import InvalidEvents
from collector.edge.pixel import Pixels
from collector.edge.rate_limit import BucketTable, TokenBuckets
from collector.edge.routes import Routes
from collector.edge.rules import Rules
from collector.edge.script import scripts
from collector.events import Event
from collector.ingest.daily_key import DailyKeys
from collector.ingest.enrich import client_ip_policy, needs_keys
from collector.ingest.pipeline import replay
from collector.journal.answers import AnswerStore
from collector.journal.flush.flusher import Flusher
from collector.journal.flush.quarantine import Quarantine
from collector.journal.flush.rejects import RejectedStore, Rejects
from collector.journal.flush.segment_flush import SegmentFlush
from collector.journal.journal import Journal
from collector.journal.record import Record
from collector.journal.segment import SegmentStore
from collector.metrics import Gauges, Metrics
from collector.parts.writer import PartWriter
from collector.publish.local import Folders
from collector.sites import build_sites
from collector.wording import count
from collector.worker_slot import ONLY_WORKER, WorkerSlot

log = logging.getLogger(__name__)

# Errors that may go away, or be fixed, while the collector runs. After any other error, start-up fails.
PASSING_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO})


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages that a worker runs."""

    metrics: Metrics
    writer: PartWriter
    store: SegmentStore
    journal: Journal
    flush_segment: SegmentFlush
    flusher: Flusher
    decider: Decider
    keys: DailyKeys
    answers: AnswerStore
    slot: WorkerSlot
    min_free_bytes: int

    def open(self) -> None:
        """Create the folders, adopt the segments of dead processes, and open the journal. Blocks.

        Raises OSError and SegmentBroken. A full disk or a lack of descriptors does not raise: the journal refuses
        events until it can be opened.
        """
        left_over = self.store.left_over()
        if left_over:
            size_bytes = sum(segment.size_bytes for segment in left_over)
            log.info("recovering %s (%d bytes) while serving", count(len(left_over), "segment"), size_bytes)
        self.journal.adopt(left_over)
        for step in (self.writer.prepare, self.journal.open):
            try:
                step()
            except OSError as exc:
                if exc.errno not in PASSING_ERRORS:
                    raise
                log.error("%s failed; it will be retried: %s", step.__qualname__, exc)
        self.keys.tend()

    def rules_of(self, config: Config, clock: Clock) -> Rules:
        """The rules for a new configuration. Call it in a thread: 10,000 sites take a while."""
        return build_rules(config, clock, self.decider.rules.buckets.table, self.keys)

    def unready_reason(self) -> str | None:
        missing_key = self.keys.missing_reason if needs_keys(self.decider.rules.client_ip) else None
        return self.journal.unready_reason() or missing_key

    def stats(self) -> Stats:
        return Stats(
            self.metrics.counts.received,
            len(self.journal.sealed),
            self.decider.in_flight.count,
            self.journal.unpublished_rows,
        )

    async def metrics_page(self) -> bytes:
        # In a thread: rendering 18,000 series takes 0.15 s, and no event may wait that long.
        return await asyncio.to_thread(self.metrics.snapshot(self.journal.buffered_by_site(), self.gauges()))

    def families(self) -> Callable[[], Iterable[Metric]]:
        """A function that collects the current metrics. Call it in a thread."""
        return self.metrics.families(self.journal.buffered_by_site(), self.gauges())

    def gauges(self) -> Gauges:
        """Metrics whose values are read at each scrape: name to HELP text and value."""
        self.metrics.workers.labels("serving").set(1)
        is_ready = int(self.unready_reason() is None)
        self.metrics.workers.labels("ready").set(is_ready)
        return {
            "collector_buffered_bytes": (
                "Size of the unpublished events, in bytes, as it counts towards collector_buffered_max_bytes.",
                self.journal.unpublished_bytes,
            ),
            "collector_buffered_max_bytes": (
                "Limit of collector_buffered_bytes: storage.journal_max_bytes, or less with durability memory.",
                self.journal.max_bytes,
            ),
            "collector_disk_free_bytes": (
                "Free space of the disk that holds data_dir, in bytes, checked twice a second.",
                self.journal.disk_free_bytes,
            ),
            "collector_disk_min_free_bytes": (
                "storage.min_free_bytes: free space below which events are refused.",
                self.min_free_bytes,
            ),
            "collector_journal_segments": (
                "Sealed segments that are not yet published.",
                len(self.journal.sealed),
            ),
            "collector_recovering_segments": (
                "Segments that an earlier process left, not yet published; collector_journal_segments includes them.",
                sum(segment.left_over for segment in self.journal.sealed),
            ),
            "collector_newer_segments": (
                "Segments left alone because only a later version of the collector can read them.",
                self.store.newer,
            ),
            "collector_rate_limit_clients": (
                "Clients whose rate-limit token bucket is not full.",
                # Several workers share the table, and their supervisor counts its clients.
                self.decider.rules.buckets.__len__ if self.slot == ONLY_WORKER else 0,
            ),
            "collector_requests_in_flight": (
                "Requests whose head has arrived and whose response is not yet sent.",
                self.decider.in_flight.count,
            ),
            "collector_ready": ("1 while at least one worker accepts events, else 0.", is_ready),
        }


def build_stages(
    config: Config,
    clock: Clock,
    slot: WorkerSlot = ONLY_WORKER,
    table: BucketTable | None = None,
    labelled: Iterable[str] | None = None,
    root: Path | None = None,
    demo: Mapping[str, bytes] | None = None,
) -> Stages:
    """All stages of one worker, without sockets or signals. Touches no disk, but for the package's own files.

    `labelled` are the sites that get their own series, if a supervisor has chosen them for all workers. `root` is the
    path by which this process reaches data_dir (see `DataDir.entered`); by default it is the configured path.
    `demo`: the files of the demo (see `read_demo`).
    """
    storage = config.storage
    root = storage.data_dir if root is None else root
    journal_max_bytes = slot.of(storage.journal_max_bytes)
    metrics = Metrics(config.sites if labelled is None else labelled)
    folders = Folders(root)
    writer = PartWriter(folders, slot.folder, compression=storage.compression, adopts=slot.adopts)
    store = SegmentStore(
        folders,
        slot.folder,
        by_site="site" in storage.partition_by,
        durability=storage.durability,
        adopts=slot.adopts,
    )
    answers = AnswerStore(root, slot, clock)
    quarantine = Quarantine(folders, slot.folder, metrics)

    def decode(record: Record) -> tuple[Event, bool]:
        site = decider.rules.sites.get(record.site_id)
        return replay(record, flags_bots=site is None or site.flags_bots)

    flush_segment = SegmentFlush(store, writer, quarantine, decode, answers.remember)
    journal = Journal(
        store,
        segment_max_bytes=min(storage.segment_max_bytes, journal_max_bytes),
        journal_max_bytes=journal_max_bytes,
        clock=clock,
        metrics=metrics,
    )
    rejects = Rejects(enabled=storage.rejected_max_bytes > 0, slot=slot)
    flusher = Flusher(
        journal,
        flush_segment,
        rejects,
        RejectedStore(writer, storage.rejected_max_bytes, slot),
        interval_s=storage.flush_interval_s,
        clock=clock,
        metrics=metrics,
        # A segment of a later version may hold a batch that was claimed.
        recovered=lambda: None if store.newer else answers.resolve(),
    )
    keys = DailyKeys(root, clock)
    rules = build_rules(config, clock, table or BucketTable(), keys)
    named, others = scripts(config.tracker), demo_files(demo or {})
    routes = Routes((DEFAULT_COLLECT_PATH, config.tracker.collect_path), named, others)
    files = Files({f"/{name}": file for name, file in named.items()} | others)
    invalid_events = InvalidEvents(rejects, metrics)
    batches = Batches(journal, invalid_events, metrics, clock, answers)
    pixels = Pixels(keys)
    decider = Decider(rules, routes, files, journal, invalid_events, batches, pixels, metrics, clock)
    return Stages(
        metrics,
        writer,
        store,
        journal,
        flush_segment,
        flusher,
        decider,
        keys,
        answers,
        slot,
        storage.min_free_bytes,
    )


def build_rules(config: Config, clock: Clock, table: BucketTable, keys: DailyKeys | None = None) -> Rules:
    """The rules for processing requests. The table keeps its buckets if the limit changes. Touches no disk."""
    return Rules(
        sites=build_sites(config.sites),
        buckets=TokenBuckets(config.rate_limit, clock, table),
        peers=peers_of(config.server),
        client_ip=client_ip_policy(config.privacy.client_ip, keys or DailyKeys(config.storage.data_dir, clock)),
        max_body_bytes=config.server.max_body_bytes,
        max_batch_bytes=config.server.max_batch_bytes,
        retention_days=config.storage.retention_days,
        body_timeout_s=config.server.body_timeout_s,
        max_connections_per_client=config.server.max_connections_per_client,
    )


def peers_of(server: ServerSettings) -> Peers:
    networks = AddressSet(proxy for proxy in server.trusted_proxies if not isinstance(proxy, str))
    return Peers(networks, server.client_ip_header, trusts_unix=UNIX in server.trusted_proxies)
