"""Invalid events: kept for their site's owner to inspect, as far as the limits and privacy allow."""

from collector.ingest.pipeline import Arrival
from collector.ingest.sender import presentable
from collector.journal.flush.rejects import Rejected, Rejects
from collector.metrics import Metrics


class InvalidEvents:
    """Hands invalid events on to `rejected/`, and counts those that cannot be kept."""

    def __init__(self, rejects: Rejects, metrics: Metrics) -> None:
        self._rejects = rejects
        self._metrics = metrics

    def keep(self, arrival: Arrival, received_us: int, message: str, body: bytes) -> None:
        """Keep the event. Those of senders with a key lose the visitor's address and user agent."""
        kept = presentable(body) if arrival.is_sender else body
        if kept is None or not self._rejects.keep(arrival.site.id, Rejected(received_us, message, kept)):
            self._metrics.rejected_lost.inc()
