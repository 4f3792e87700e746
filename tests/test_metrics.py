"""Metrics: they add up, their number is limited, and a scrape shows a single moment."""

from collections import Counter
from collections.abc import Mapping
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from collector.events import Reason
from collector.metrics import Metrics
from collector.site_counts import MAX_LABELLED_SITES, OTHER_SITES, UNKNOWN_SITE
from tests.support import Running, body

Series = dict[tuple[str, ...], float]


def scrape(metrics: Metrics, buffered: Mapping[str, int] | None = None) -> bytes:
    return metrics.snapshot(buffered or {}, {})()


def series(page: bytes) -> dict[str, Series]:
    """Metric name to label values to value."""
    found: dict[str, Series] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = tuple(sample.labels[name] for name in ("site", "reason") if name in sample.labels)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def sums_by_site(page: bytes) -> dict[str, tuple[float, float]]:
    """For each site: received, and stored plus dropped."""
    numbers = series(page)
    sums = {site: value for (site,), value in numbers["collector_stored_events_total"].items()}
    for (site, _), value in numbers.get("collector_dropped_events_total", {}).items():
        sums[site] += value
    received = {site: value for (site,), value in numbers["collector_received_events_total"].items()}
    assert received.keys() == sums.keys()
    return {site: (received[site], sums[site]) for site in sums}


OUTCOMES = st.tuples(st.sampled_from(["a", "b", UNKNOWN_SITE]), st.none() | st.sampled_from(Reason))


@given(st.lists(OUTCOMES))
def test_received_is_stored_plus_dropped_for_every_site(outcomes: list[tuple[str, Reason | None]]) -> None:
    metrics = Metrics(["a", "b"])
    for site, reason in outcomes:
        counts = metrics.counts.of_unknown if site == UNKNOWN_SITE else metrics.counts.of_site(site)
        if reason is None:
            counts.count_stored()
        else:
            counts.count_dropped(reason)
    page = scrape(metrics)
    per_site = Counter(site for site, _ in outcomes)
    assert {UNKNOWN_SITE: (0, 0)} | {site: (n, n) for site, n in per_site.items()} == sums_by_site(page)
    dropped = Counter((site, reason.value) for site, reason in outcomes if reason is not None)
    assert dropped == series(page).get("collector_dropped_events_total", {})


async def test_equation_holds_over_http(collector: Running) -> None:
    for data in (body(), b"{", body(page_path=1), body()):
        await collector.post(data)
    await collector.post(body(), site="nobody")
    await collector.post(body(), headers={"Origin": "http://localhost"})
    await collector.post(body(), headers={"Content-Encoding": "gzip"})
    async with collector.client.get(collector.collect_url()) as response:
        assert 405 == response.status
    sums = sums_by_site(scrape(collector.stages.metrics))
    assert {"demo": (6, 6), UNKNOWN_SITE: (2, 2)} == sums


def test_sites_beyond_the_limit_share_one_label() -> None:
    beyond = 50
    metrics = Metrics(f"site-{n}" for n in range(MAX_LABELLED_SITES + beyond))
    for n in range(MAX_LABELLED_SITES + beyond):
        metrics.counts.of_site(f"site-{n}").count_stored()
        metrics.counts.of_site(f"site-{n}").count_dropped(Reason.INVALID)
    page = scrape(metrics, {f"site-{n}": 1 for n in range(MAX_LABELLED_SITES + beyond)})
    numbers = series(page)
    for name in ("collector_received_events_total", "collector_buffered_events"):
        assert MAX_LABELLED_SITES + 2 == len(numbers[name])
        known = [(UNKNOWN_SITE,), (OTHER_SITES,), ("site-0",), (f"site-{MAX_LABELLED_SITES - 1}",)]
        assert known == [key for key in known if key in numbers[name]]
    assert (2 * beyond, 2 * beyond) == sums_by_site(page)[OTHER_SITES]
    assert beyond == numbers["collector_buffered_events"][OTHER_SITES,]


def sites_with_series(metrics: Metrics) -> set[str]:
    return {site for (site,) in series(scrape(metrics))["collector_received_events_total"]}


def test_order_of_the_configuration_decides_which_sites_have_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """By order of arrival each worker would choose other sites, and the aggregated page would have 1,000 for each."""
    monkeypatch.setattr("collector.site_counts.MAX_LABELLED_SITES", 2)
    sites = ["a", "b", "c", "d"]
    for order in permutations(sites):
        metrics = Metrics(sites)
        for site in order:
            metrics.counts.of_site(site).count_stored()
        assert {"a", "b", OTHER_SITES, UNKNOWN_SITE} == sites_with_series(metrics)


def test_reload_adds_series_up_to_the_limit_and_removes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.site_counts.MAX_LABELLED_SITES", 3)
    metrics = Metrics(["a", "b"])
    for site in "abc":
        metrics.counts.of_site(site).count_stored()
    metrics.counts.label(["d", "c", "b"])
    assert ["a", "b", "d"] == metrics.counts.labelled
    for site in "bcd":
        metrics.counts.of_site(site).count_stored()
    assert {"a": (1, 1), "b": (2, 2), "d": (1, 1), OTHER_SITES: (2, 2), UNKNOWN_SITE: (0, 0)} == sums_by_site(
        scrape(metrics)
    )


def test_every_reason_is_a_label_of_dropped_events() -> None:
    metrics = Metrics()
    for reason in Reason:
        metrics.counts.of_unknown.count_dropped(reason)
    names = series(scrape(metrics))["collector_dropped_events_total"]
    assert {(UNKNOWN_SITE, reason.value) for reason in Reason} == set(names)


def test_snapshot_shows_a_single_moment() -> None:
    """Events counted between snapshot and rendering belong to the next scrape."""
    metrics = Metrics(["demo", "late"])
    metrics.counts.of_site("demo").count_stored()
    buffered = {"demo": 1}
    render = metrics.snapshot(buffered, {"collector_ready": ("1 while events are taken", 1)})
    metrics.counts.of_site("demo").count_dropped(Reason.INVALID)
    metrics.counts.of_site("late").count_stored()
    buffered["demo"] = 7
    numbers = series(render())
    assert {("demo",): 1, (UNKNOWN_SITE,): 0} == numbers["collector_received_events_total"]
    assert {("demo",): 1, (UNKNOWN_SITE,): 0} == numbers["collector_stored_events_total"]
    assert {("demo",): 1, (UNKNOWN_SITE,): 0} == numbers["collector_buffered_events"]
    assert "collector_dropped_events_total" not in numbers
    assert {(): 1} == numbers["collector_ready"]
    assert {"demo": (2, 2), "late": (1, 1), UNKNOWN_SITE: (0, 0)} == sums_by_site(scrape(metrics))


def test_site_always_has_the_same_counts() -> None:
    metrics = Metrics(["demo"])
    assert metrics.counts.of_site("demo") is metrics.counts.of_site("demo")
    assert metrics.counts.of_unknown is not metrics.counts.of_site("demo")
