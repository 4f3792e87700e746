"""Metrics: plain integers on the hot path, Prometheus series at a scrape.

Each event increments integers of its site (30 ns; a labelled counter of the library costs 1 us). `received` and the
event's disposition are counted together, when the response is decided. For every site, every scrape therefore has

    received = stored + sum of dropped over all reasons
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from collector.build import BUILD
from collector.events import Reason
from collector.site_counts import CountsBySite

# Without this, every counter gets a second series that only says when the process started.
disable_created_metrics()  # type: ignore[no-untyped-call]

COMMIT_BUCKETS_S = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1)
BATCH_BUCKETS = (1, 10, 100, 1_000, 3_000, 10_000)
FLUSH_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """All metrics of one process."""

    def __init__(self, sites: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self.counts = CountsBySite(sites)
        self.commits = Counter(
            "collector_journal_commits",
            "Groups of events written to the journal, by outcome: done or failed.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("done", "failed"):
            self.commits.labels(outcome)
        self.commit_seconds = Histogram(
            "collector_journal_commit_duration_seconds",
            "Time to make one group of events durable in the journal, in seconds.",
            buckets=COMMIT_BUCKETS_S,
            registry=self.registry,
        )
        self.recovered_events = Counter(
            "collector_recovered_events",
            "Events published from segments that an earlier process left.",
            registry=self.registry,
        )
        self.quarantined = Counter(
            "collector_quarantined",
            "Pieces of segments that could not be read back and are kept in quarantine/, by kind: torn (incomplete "
            "end), damaged (bytes that are not records), unfit (values that fit no column) or segment (all of it).",
            ["kind"],
            registry=self.registry,
        )
        for kind in ("torn", "damaged", "unfit", "segment"):
            self.quarantined.labels(kind)
        self.flushes = Counter(
            "collector_flushes",
            "Flushes of one segment each, by outcome: published or failed.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("published", "failed"):
            self.flushes.labels(outcome)
        self.flush_seconds = Histogram(
            "collector_flush_duration_seconds",
            "Time to publish one segment, in seconds.",
            buckets=FLUSH_BUCKETS_S,
            registry=self.registry,
        )
        self.loop_lag_seconds = Histogram(
            "collector_event_loop_lag_seconds",
            "Delay of the event loop, in seconds, measured every 10 ms; it delays every response by as much.",
            buckets=LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.published_events = Counter(
            "collector_published_events", "Events in published parts.", registry=self.registry
        )
        self.parts = Counter("collector_parts", "Published parts (Parquet files).", registry=self.registry)
        self.part_bytes = Counter(
            "collector_part_bytes", "Total size of the published parts, in bytes.", registry=self.registry
        )
        self.expired_parts = Counter(
            "collector_expired_parts",
            "Parts, also of rejected events, deleted because they were older than storage.retention_days.",
            registry=self.registry,
        )
        self.rejected_kept = Counter(
            "collector_rejected_kept_events", "Invalid events written to rejected/.", registry=self.registry
        )
        self.rejected_lost = Counter(
            "collector_rejected_lost_events",
            "Invalid events not written to rejected/: a limit was hit, the write failed, or rejected_max_bytes is 0.",
            registry=self.registry,
        )
        self.batches = Counter(
            "collector_batches",
            "Batches, by outcome: stored (all events), partial (some of them), dropped (each was judged, and none is "
            "stored), refused (as a whole) or repeated (answered before; its Idempotency-Key is known). Those refused "
            "before they are read are not counted here, but as one dropped event each.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("stored", "partial", "dropped", "refused", "repeated"):
            self.batches.labels(outcome)
        self.batch_events = Histogram(
            "collector_batch_events", "Events in a batch.", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self.pixels = Counter(
            "collector_pixels",
            "Pixels that were fetched, by outcome: stored or dropped. Their events are among those of the sites.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("stored", "dropped"):
            self.pixels.labels(outcome)
        self.bad_requests = Counter(
            "collector_bad_requests",
            "Connections closed because they sent no HTTP/1.0 or 1.1 request line, or no complete head in time.",
            registry=self.registry,
        )
        self.connections = Gauge(
            "collector_connections", "Open connections to the public port.", registry=self.registry
        )
        self.evicted = Counter(
            "collector_evicted_connections",
            "Connections closed because there were too many, by limit: client (of one client) or all (in total).",
            ["bound"],
            registry=self.registry,
        )
        for bound in ("client", "all"):
            self.evicted.labels(bound)
        self.workers = Gauge(
            "collector_workers",
            "Worker processes, by state: configured, serving, or ready (serving and accepting events).",
            ["state"],
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "collector_worker_restarts", "Workers replaced because they died or hung.", registry=self.registry
        )
        self.reloads = Counter(
            "collector_reloads",
            "Reloads of the configuration, by outcome: done or failed.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("done", "failed"):
            self.reloads.labels(outcome)
        self.last_reload_failed = Gauge(
            "collector_last_reload_failed",
            "1 if the last reload failed, so that the previous configuration is still in use; else 0.",
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def snapshot(self, buffered_by_site: Mapping[str, int], gauges: "Gauges") -> Callable[[], bytes]:
        """A function that renders the current metrics. Call it in a thread: 18,000 series take 0.15 s."""
        families = self.families(buffered_by_site, gauges)
        return lambda: page(families())

    def families(self, buffered_by_site: Mapping[str, int], gauges: "Gauges") -> Callable[[], Iterable[Metric]]:
        """A function that returns the current metrics, to be called in a thread."""
        sites = [(name, counts.received, counts.stored, dict(counts.dropped)) for name, counts in self.counts.items()]
        buffered: dict[str, int] = {}
        for site_id, rows in buffered_by_site.items():
            label = self.counts.label_of(site_id)
            buffered[label] = buffered.get(label, 0) + rows
        moment = _Moment(sites, buffered, gauges)
        return lambda: chain(moment.collect(), self.registry.collect())


Gauges = Mapping[str, tuple[str, float | Callable[[], float]]]
"""Name to (help, value). A value that is slow to find may be a function; the rendering thread calls it."""


def page(families: Iterable[Metric]) -> bytes:
    """The families in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Given(families))
    return generate_latest(registry)


class _Given(Collector):
    """Families that were collected before."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Moment(Collector):
    """The site counters and gauges as they were at one moment."""

    def __init__(
        self, sites: list[tuple[str, int, int, dict[Reason, int]]], buffered: dict[str, int], gauges: Gauges
    ) -> None:
        self._sites = sites
        self._buffered = buffered
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        received = CounterMetricFamily(
            "collector_received_events",
            "Events received, by site; a batch that is refused unread counts as one; (unknown): no known site, a wrong "
            "path or a wrong method; (other): sites beyond the first 1,000 of the configuration.",
            labels=["site"],
        )
        stored = CounterMetricFamily(
            "collector_stored_events",
            "Events stored. Each was answered with 201, in the answer to its batch, or with the image of its pixel.",
            labels=["site"],
        )
        dropped = CounterMetricFamily(
            "collector_dropped_events",
            "Events not stored, by site and by reason, as in the Collect-Reason header.",
            labels=["site", "reason"],
        )
        waiting = GaugeMetricFamily(
            "collector_buffered_events",
            "Stored events that are not yet in a part, except those that an earlier process left.",
            labels=["site"],
        )
        for site, n_received, n_stored, by_reason in self._sites:
            received.add_metric([site], n_received)
            stored.add_metric([site], n_stored)
            for reason, count in by_reason.items():
                dropped.add_metric([site, reason.value], count)
            waiting.add_metric([site], self._buffered.get(site, 0))
        yield from (received, stored, dropped, waiting)
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=value() if callable(value) else value)
        build = GaugeMetricFamily(
            "collector_build_info",
            "Always 1; its labels name the running version, commit (only of a binary), contract and form of the code, "
            "compiled or interpreted.",
            labels=list(BUILD),
        )
        build.add_metric(list(BUILD.values()), 1)
        yield build
