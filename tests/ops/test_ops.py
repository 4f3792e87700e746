"""The dashboard and the alerts: every metric, label and value in their queries is one that a collector exposes."""

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.events import Reason
from tests.crash.conftest import need
from tests.support import event
from tests.system.process import Process, serving

ROOT = Path(__file__).parents[2]
OPS = ROOT / "ops"
ALERTS = (OPS / "alerts.yml").read_text()
ALERT_TESTS = (OPS / "alerts.test.yml").read_text()
DASHBOARD: dict[str, Any] = json.loads((OPS / "grafana-dashboard.json").read_text())
RUNBOOK = (ROOT / "docs" / "alerts.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
NAMES = re.findall(r"alert: (\w+)", ALERTS)

# Labels that Prometheus adds to each series, or that every histogram has.
ADDED = {"job", "instance", "alertname", "le"}

METRIC = r"\b(?:collector|process)_\w+"
SELECTED = re.compile(rf"({METRIC})(?:\{{([^}}]*)\}})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!=|!~|=)\s*"([^"]*)"')

Series = dict[str, list[dict[str, str]]]


def promtool(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    found = shutil.which("promtool")
    need(found is not None, "promtool (Debian: prometheus)")
    assert found is not None
    return subprocess.run(
        [found, *map(str, arguments)], input=stdin, cwd=OPS, capture_output=True, text=True, timeout=120
    )


def expressions() -> dict[str, list[str]]:
    """The queries of each alert and each panel, by its name."""
    found = {}
    for name, rule in re.findall(r"alert: (\w+)\n(.*?)(?=\n +- alert:|\Z)", ALERTS, re.DOTALL):
        expr = re.search(r"expr: (.*?)\n +(?:for|labels):", rule, re.DOTALL)
        assert expr is not None, name
        found[name] = [" ".join(expr[1].split())]
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["title"] not in found, "two panels of one title"
            found[panel["title"]] = [target["expr"] for target in panel["targets"]]
    return found


EXPRESSIONS = expressions()


def drive(process: Process, folder: Path) -> None:
    """Cause an event of every kind, so that its series exist."""
    assert 201 == process.post().status
    for data, site, status in (
        (b"{}", "demo", 202),
        (b"x" * 2000, "demo", 413),
        (event(), "closed", 403),
        (event(), "nobody", 404),
    ):
        origin = {"Origin": "https://elsewhere.example"}
        assert status == process.post(data, site, origin).status
    process.published()
    (folder / "collector.toml").write_text("no TOML")
    process.send_signal(signal.SIGHUP)
    process.logged("nothing changed")


@pytest.fixture(scope="module", params=[1, 2], ids=["single process", "two workers"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """/metrics of a real process after events of every kind."""
    folder = tmp_path_factory.mktemp("ops")
    sites: dict[str, dict[str, Any]] = {"demo": {}, "closed": {"allowed_origins": ["https://only.example"]}}
    server = {"workers": request.param, "max_body_bytes": 1000}
    with serving(folder, sites, server=server, storage={"flush_interval_s": 0.2, "min_free_bytes": 1000}) as process:
        drive(process, folder)
        status, text = process.ask("/metrics")
    assert 200 == status
    return text


@pytest.fixture(scope="module")
def series(page: str) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_page_has_disk_space_and_limits(page: str) -> None:
    """All workers see one disk, and their shares of the journal's limit add up to the setting."""
    values = {name: float(value) for name, value in re.findall(r"^(collector_\w+) (\S+)$", page, re.MULTILINE)}
    assert 0 < values["collector_disk_free_bytes"] <= shutil.disk_usage(ROOT).total
    assert 4 << 30 == values["collector_buffered_max_bytes"]
    assert 1000 == values["collector_disk_min_free_bytes"]


def test_promtool_accepts_the_metrics(page: str) -> None:
    done = promtool("check", "metrics", stdin=page)
    assert (0, "") == (done.returncode, done.stdout + done.stderr)


def test_promtool_accepts_every_rule() -> None:
    done = promtool("check", "rules", "alerts.yml")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"{len(NAMES)} rules found" in done.stdout


def test_promtool_accepts_the_prometheus_configuration_of_the_docs(tmp_path: Path) -> None:
    """It names `alerts.yml`, which its reader copies next to it. promtool checks those rules too."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", OPERATIONS, re.DOTALL | re.MULTILINE)
    (tmp_path / "prometheus.yml").write_text(block)
    shutil.copy(OPS / "alerts.yml", tmp_path)
    done = promtool("check", "config", tmp_path / "prometheus.yml")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"{len(NAMES)} rules found" in done.stdout


def test_each_alert_fires_when_it_should_and_no_other_does() -> None:
    done = promtool("test", "rules", "alerts.test.yml")
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_is_tested_and_explained(name: str) -> None:
    assert f'alertname="{name}"' in ALERT_TESTS
    assert f"\n## {name}\n" in RUNBOOK
    assert f'runbook: "docs/alerts.md#{name.lower()}"' in ALERTS


def test_docs_explain_only_existing_alerts_in_their_order() -> None:
    assert NAMES == re.findall(r"^## (Collector\w+)$", RUNBOOK, re.MULTILINE)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_queried_metric_and_label_exists(name: str, series: Series) -> None:
    for expr in EXPRESSIONS[name]:
        selected = SELECTED.findall(expr)
        assert selected or 'up{job="collector"}' in expr, expr
        for metric, matchers in selected:
            assert metric in series, metric
            for label, _ in MATCHER.findall(matchers):
                assert label in ADDED or any(label in labels for labels in series[metric]), f"{metric}: {label}"


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_label_to_group_by_exists(name: str, series: Series) -> None:
    for expr in EXPRESSIONS[name]:
        metrics = [metric for metric, _ in SELECTED.findall(expr)]
        for label in {
            each.strip() for by in re.findall(r"\b(?:by|ignoring) \(?([\w, ]+)\)", expr) for each in by.split(",")
        }:
            assert label in ADDED or any(label in labels for metric in metrics for labels in series[metric]), label


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_queried_label_value_exists(name: str, series: Series) -> None:
    """Except values of `site`, which depend on the configuration. The reasons come from their enum."""
    for expr in EXPRESSIONS[name]:
        for metric, matchers in SELECTED.findall(expr):
            for label, value in MATCHER.findall(matchers):
                if label in ADDED or label == "site":
                    continue
                known = {labels.get(label) for labels in series[metric]}
                if label == "reason":
                    known = {reason.value for reason in Reason}
                assert set(value.split("|")) <= known, f"{metric}: {label}={value}"


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_dashboard_queries_are_valid_promql(tmp_path: Path) -> None:
    """promtool parses them as rules, with Grafana's variables replaced."""
    rules = [
        {
            "record": f"panel:{number}",
            "expr": expr.replace("$__rate_interval", "1m").replace("$job", "j").replace("$instance", "i"),
        }
        for number, expr in enumerate(
            expr for panel in DASHBOARD["panels"] for expr in EXPRESSIONS.get(panel["title"], [])
        )
    ]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    done = promtool("check", "rules", file)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_docs_have_every_metric_of_a_real_page(series: Series) -> None:
    """tests/docs compares the same table with the metrics of a collector that never served."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    for metric in series:
        if metric.startswith("collector_"):
            assert f"| `{re.sub('_(bucket|count|sum)$', '', metric)}` |" in page, metric
