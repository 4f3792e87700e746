"""The stages of one process, built from the last to the first and handed to one another."""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from collector.addresses import AddressSet
from collector.clock import Clock
from collector.config import Config
from collector.edge.app import Traffic, build_app
from collector.edge.collect import CollectEndpoint, Rules
from collector.edge.ops import build_admin
from collector.edge.rate_limit import TokenBuckets
from collector.ingest.enrich import client_ip_policy
from collector.journal.flush import Flusher
from collector.journal.journal import Journal
from collector.journal.rejects import RejectedStore, Rejects
from collector.journal.segment import Segment
from collector.metrics import Gauges, Metrics
from collector.parts.writer import Part, PartWriter
from collector.sites import build_sites

WORKER = "0"


@dataclass(frozen=True, slots=True)
class Stages:
    """What a worker runs."""

    metrics: Metrics
    writer: PartWriter
    journal: Journal
    flusher: Flusher
    endpoint: CollectEndpoint
    traffic: Traffic

    def public_app(self) -> web.Application:
        return build_app(self.endpoint, self.traffic)

    def admin_app(self) -> web.Application:
        return build_admin(self.journal, self.metrics, self.gauges)

    def gauges(self) -> Gauges:
        """The numbers that are looked up when someone asks."""
        return {
            "collector_buffered_bytes": (
                "What the unpublished events are charged for",
                self.journal.unpublished_bytes,
            ),
            "collector_rate_limit_clients": (
                "Clients with a token bucket of their own",
                len(self.endpoint.rules.buckets),
            ),
            "collector_requests_under_way": ("Requests being answered", self.traffic.under_way),
            "collector_ready": ("1 while events are taken", int(self.journal.can_append())),
        }


def build_stages(config: Config, clock: Clock) -> Stages:
    """Everything but sockets and signals. Touches no disk."""
    storage = config.storage
    metrics = Metrics()
    writer = PartWriter(
        storage.data_dir, WORKER, by_site="site" in storage.partition_by, compression=storage.compression
    )
    journal = Journal(segment_max_bytes=storage.segment_max_bytes, journal_max_bytes=storage.journal_max_bytes)
    rejects = Rejects(enabled=storage.rejected_max_bytes > 0)
    flusher = Flusher(
        journal,
        _write_with(writer),
        rejects,
        RejectedStore(writer, storage.rejected_max_bytes),
        interval_s=storage.flush_interval_s,
        clock=clock,
        metrics=metrics,
    )
    endpoint = CollectEndpoint(build_rules(config, clock), journal, rejects, metrics, clock)
    return Stages(metrics, writer, journal, flusher, endpoint, Traffic())


def build_rules(config: Config, clock: Clock, present: Rules | None = None) -> Rules:
    """What requests are judged by. Buckets live on where the `present` rules have the same limit."""
    keep = present is not None and present.buckets.limit == config.rate_limit
    return Rules(
        sites=build_sites(config.sites),
        buckets=present.buckets if present is not None and keep else TokenBuckets(config.rate_limit, clock),
        trusted_proxies=AddressSet(config.server.trusted_proxies),
        client_ip=client_ip_policy(config.privacy.client_ip, config.storage.data_dir),
        max_body_bytes=config.server.max_body_bytes,
        body_timeout_s=config.server.body_timeout_s,
    )


def _write_with(writer: PartWriter) -> Callable[[Segment], list[Part]]:
    return lambda segment: writer.write_events(segment.id, segment.batches, segment.rows_of)
