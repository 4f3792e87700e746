"""Rules: the settings that a reload can change."""

from dataclasses import dataclass

from collector.edge.client_ip import Peers
from collector.edge.rate_limit import TokenBuckets
from collector.ingest.enrich import ClientIpPolicy
from collector.sites import Sites


@dataclass(frozen=True, slots=True)
class Rules:
    """Every request reads the current ones."""

    sites: Sites
    buckets: TokenBuckets
    peers: Peers
    client_ip: ClientIpPolicy
    max_body_bytes: int
    max_batch_bytes: int
    retention_days: int
    body_timeout_s: float
    max_connections_per_client: int
