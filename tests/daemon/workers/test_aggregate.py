"""Metrics of several processes: what is added up, what is not, and that nothing changes on the way."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from collector.daemon.workers.aggregate import Family, aggregate, counts, encode, families, to_metrics
from collector.events import Reason
from collector.metrics import Metrics, page
from tests.test_metrics import series, sums_by_site


def sent_by(metrics: Metrics, **gauges: float) -> list[Family]:
    """The families that a supervisor receives from a worker with these metrics."""
    found: list[Family] = json.loads(encode(families(metrics.families({}, {n: ("", v) for n, v in gauges.items()})())))
    return found


def rendered(pages: list[list[Family]]) -> bytes:
    return page(to_metrics(aggregate(pages)))


def test_aggregate_of_one_process_equals_its_own_page() -> None:
    """Sample for sample, including histograms and labels."""
    metrics = Metrics(["demo"])
    metrics.counts.of_site("demo").count_stored()
    metrics.counts.of_unknown.count_dropped(Reason.METHOD)
    metrics.commit_seconds.observe(0.002)
    metrics.flush_seconds.observe(1e9)
    alone = metrics.snapshot({}, {"collector_ready": ("1 while events are accepted", 1)})()
    sent = json.loads(encode(families(metrics.families({}, {"collector_ready": ("1 while events are accepted", 1)})())))
    theirs, ours = (
        {
            (sample.name, *sample.labels.items()): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if not family.name.startswith("process_")  # these change between the two
        }
        for text in (alone, rendered([sent]))
    )
    assert theirs == ours


OUTCOMES = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.none() | st.sampled_from(Reason)), max_size=30)


@given(st.lists(OUTCOMES, min_size=1, max_size=4))
def test_received_is_stored_plus_dropped_in_every_sum(of_workers: list[list[tuple[str, Reason | None]]]) -> None:
    pages = []
    for outcomes in of_workers:
        metrics = Metrics(["a", "b"])
        for site, reason in outcomes:
            counted = metrics.counts.of_site(site)
            if reason is None:
                counted.count_stored()
            else:
                counted.count_dropped(reason)
        pages.append(sent_by(metrics))
    sums = sums_by_site(rendered(pages))
    assert all(received == accounted for received, accounted in sums.values())
    assert sum(map(len, of_workers)) == sum(received for received, _ in sums.values())


def test_counters_histograms_and_gauges_are_added_up_and_facts_are_not() -> None:
    pages = []
    for number in (1, 2):
        metrics = Metrics()
        metrics.commit_seconds.observe(number)
        metrics.connections.set(10 * number)
        metrics.workers.labels("serving").set(1)
        pages.append(sent_by(metrics, collector_ready=number - 1, collector_buffered_bytes=100 * number))
    numbers = {name: [*values.values()] for name, values in series(rendered(pages)).items()}
    assert [3] == numbers["collector_journal_commit_duration_seconds_sum"]
    assert [2] == numbers["collector_journal_commit_duration_seconds_count"]
    assert ([30], [300]) == (numbers["collector_connections"], numbers["collector_buffered_bytes"])
    for fact in ("collector_ready", "collector_build_info", "python_info"):
        assert [1] == numbers[fact], fact
    (started,) = {value for text in pages for value in values_of(text, "process_start_time_seconds")}
    assert [started] == numbers["process_start_time_seconds"]


def test_earliest_start_and_highest_descriptor_limit_count() -> None:
    pages: list[list[Family]] = [
        [[name, "gauge", "", [[name, {}, value]]] for name in ("process_start_time_seconds", "process_max_fds")]
        for value in (30.0, 10.0, 20.0)
    ]
    assert [10.0, 30.0] == [samples[0][2] for _, _, _, samples in aggregate(pages)]


def values_of(text: list[Family], wanted: str) -> list[Any]:
    return [value for name, _, _, samples in text for _, _, value in samples if name == wanted]


def test_dead_process_keeps_its_counters_and_loses_its_gauges() -> None:
    metrics = Metrics(["demo"])
    metrics.counts.of_site("demo").count_stored()
    metrics.commit_seconds.observe(1)
    metrics.connections.set(7)
    left = series(rendered([counts(sent_by(metrics, collector_ready=1))]))
    assert {("demo",): 1, ("(unknown)",): 0} == left["collector_stored_events_total"]
    assert {(): 1} == left["collector_journal_commit_duration_seconds_count"]
    assert left.keys().isdisjoint({"collector_connections", "collector_ready", "collector_buffered_events"})


def test_thousands_of_samples_arrive_complete() -> None:
    """They are encoded in pieces of a thousand."""
    metrics = Metrics(f"site-{number}" for number in range(999))
    for number in range(999):
        metrics.counts.of_site(f"site-{number}").count_stored()
        for reason in (Reason.INVALID, Reason.TIMEOUT, Reason.METHOD):
            metrics.counts.of_site(f"site-{number}").count_dropped(reason)
    assert 1_000 == len(sums_by_site(rendered([sent_by(metrics)])))
    assert families(metrics.families({}, {})())[2] == sent_by(metrics)[2]


def test_disk_that_all_workers_share_counts_once_and_their_limits_add_up() -> None:
    page = rendered(
        [
            sent_by(
                Metrics(),
                collector_disk_free_bytes=free,
                collector_disk_min_free_bytes=5,
                collector_buffered_max_bytes=7,
            )
            for free in (100, 90)
        ]
    )
    numbers = series(page)
    names = ("collector_disk_free_bytes", "collector_disk_min_free_bytes", "collector_buffered_max_bytes")
    assert [90, 5, 14] == [numbers[name][()] for name in names]
