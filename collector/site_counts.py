"""How many events of each site were stored, and how many were dropped for which reason: plain integers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from collector.events import Reason

# Labels that are not valid site ids.
UNKNOWN_SITE: Final = "(unknown)"
OTHER_SITES: Final = "(other)"

# Sites with their own series; the rest share OTHER_SITES. A site has at most 18 series: 18,000 render in 0.15 s, in a
# thread (bench/scrape.py); 60,000 would take 0.7 s.
MAX_LABELLED_SITES = 1_000


class SiteCounts:
    """The dispositions of one site's events since the start."""

    __slots__ = ("dropped", "received", "stored")

    def __init__(self) -> None:
        self.received = 0
        self.stored = 0
        self.dropped: dict[Reason, int] = {}

    def count_stored(self) -> None:
        self.received += 1
        self.stored += 1

    def count_batch(self, stored: int, dropped: Mapping[Reason, int]) -> None:
        """Count the events of a batch."""
        self.received += stored + sum(dropped.values())
        self.stored += stored
        for reason, events in dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + events

    def count_dropped(self, reason: Reason) -> None:
        self.received += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class CountsBySite:
    """The counts of all sites. They only ever grow."""

    def __init__(self, sites: Iterable[str] = ()) -> None:
        self._labelled: dict[str, None] = {}
        self.label(sites)
        self.of_unknown: Final = SiteCounts()  # of requests that name no known site
        self._sites: Final[dict[str, SiteCounts]] = {UNKNOWN_SITE: self.of_unknown}

    def label(self, sites: Iterable[str]) -> None:
        """Give sites their own series, in this order, until MAX_LABELLED_SITES have them.

        The order is the configuration's, not that of arrival, so all workers choose the same sites. A site that a
        reload removes keeps its series: a counter must not decrease.
        """
        labelled = dict(self._labelled)
        for site in sites:
            if len(labelled) >= MAX_LABELLED_SITES:  # do not iterate over the rest; there may be 10,000
                break
            labelled[site] = None
        self._labelled = labelled

    @property
    def labelled(self) -> list[str]:
        """The sites with their own series."""
        return list(self._labelled)

    def label_of(self, site_id: str) -> str:
        """The label of a known site: sites without their own series share one."""
        return site_id if site_id in self._labelled else OTHER_SITES

    def of_site(self, site_id: str) -> SiteCounts:
        """The counts of a known site; sites without their own series share them."""
        counts = self._sites.get(site_id)
        if counts is None:
            counts = self._sites.setdefault(self.label_of(site_id), SiteCounts())
        return counts

    def items(self) -> Iterator[tuple[str, SiteCounts]]:
        """Every label with its counts."""
        return iter(self._sites.items())

    @property
    def received(self) -> int:
        """Events received since the start, over all sites."""
        return sum(counts.received for counts in self._sites.values())
