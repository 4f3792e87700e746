"""The recipes of docs/importing.md: from a small file in the form of each tool to rows, through DuckDB and an import.

The files are made up. Their columns are those that the tools document.
"""

import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from collector.sender_keys import fingerprint
from tests.crash.conftest import need
from tests.docs.tables import ROOT
from tests.docs.test_examples import blocks
from tests.system.process import Process, run, serving

KEY = "ck_test"
PAGE = (ROOT / "docs" / "importing.md").read_text()

VISITOR = "8f14e45f-ceea-467f-9d1c-1e5b6b1a2f3d"
VISIT = "c9f0f895-fb98-4b91-9a3a-1e5b6b1a2f3d"


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A collector that keeps addresses. The test runs in its folder, with the key in `import.key`."""
    monkeypatch.chdir(tmp_path)
    key = tmp_path / "import.key"
    key.touch(0o600)
    key.write_text(KEY)
    with serving(tmp_path, {"example": {"keys": [fingerprint(KEY)]}}, privacy={"client_ip": "full"}) as started:
        yield started


def recipe(heading: str, language: str = "sql") -> str:
    section = re.split(r"\n#+ ", PAGE.split(f"\n### {heading}\n")[1])[0]
    (block,) = blocks(section, language)
    return block


def imported(process: Process) -> list[dict[str, Any]]:
    """Import `events.ndjson`, of which every event is stored; return the rows in the order of receipt."""
    done = run(
        *("import", "events.ndjson", "--site", "example", "--url", process.url, "--key-file", "import.key"),
        folder=process.folder,
    )
    assert (0, "") == (done.returncode, done.stdout), done.stderr
    assert 0 == process.stop()
    return sorted(process.rows("example"), key=lambda row: row["received_at"])


def made(heading: str) -> None:
    """Run the recipe, and check that the file is sorted."""
    duckdb.connect().execute(recipe(heading))
    times = [json.loads(line)["received_at"] for line in Path("events.ndjson").read_text().splitlines()]
    assert times
    assert sorted(times) == times


def of(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


def test_pageviews_of_a_csv(process: Process) -> None:
    Path("pageviews.csv").write_text(
        "time,visitor,session,url,title,referrer,ip,agent\n"
        "2026-03-02T00:30:00+01:00,7,s2,https://www.example.com,,,2001:db8::7,\n"
        '2026-03-01 10:00:00,7,s1,"https://www.example.com/a,b?q=1#x","Tea, ""hot""",https://news.example/,192.0.2.7,Browser/1\n'
    )
    made("A CSV of pageviews")
    first, second = imported(process)
    assert ("s1", "/a,b", 'Tea, "hot"', "https://news.example/", "192.0.2.7", "Browser/1") == of(
        first, "session_id", "page_path", "page_title", "page_referrer", "client_ip", "user_agent"
    )
    assert (at(2026, 3, 1, 10), at(2026, 3, 1, 10)) == of(first, "received_at", "event_time")
    assert ("/", "", None, "2001:db8::7", None) == of(
        second, "page_path", "page_title", "page_referrer", "client_ip", "user_agent"
    )
    assert at(2026, 3, 1, 23, 30) == second["received_at"]
    assert first["visitor_id"] == second["visitor_id"]
    assert [date(2026, 3, 1)] == [
        date.fromisoformat(day.name.removeprefix("date="))
        for day in (process.data_dir / "events/site=example").iterdir()
    ]


def test_pageviews_of_umami(process: Process) -> None:
    """psql's query runs over tables with the columns of Umami, and its output is as psql writes it."""
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    database.execute(
        "CREATE TABLE session (session_id UUID, website_id UUID, browser VARCHAR, os VARCHAR, device VARCHAR,"
        " screen VARCHAR, language VARCHAR, country VARCHAR)"
    )
    database.execute(
        "CREATE TABLE website_event (event_id UUID, website_id UUID, session_id UUID, visit_id UUID,"
        " created_at TIMESTAMPTZ, url_path VARCHAR, url_query VARCHAR, utm_source VARCHAR, utm_medium VARCHAR,"
        " utm_campaign VARCHAR, referrer_path VARCHAR, referrer_domain VARCHAR, page_title VARCHAR,"
        " event_type INTEGER, event_name VARCHAR, hostname VARCHAR)"
    )
    site = "00000000-0000-0000-0000-000000000000"
    database.execute(
        "INSERT INTO session VALUES (?, ?, 'chrome', 'Windows 10', 'laptop', '1920x1080', 'en-US', 'DE')",
        [VISITOR, site],
    )
    for time, path, query, domain, kind, website in [
        ("2026-03-02 10:00:00.123+00", "/b", "", "", 1, site),
        ("2026-03-01 10:00:00+00", "/a", "utm_source=news", "news.example", 1, site),
        ("2026-03-01 10:00:01+00", "/a", None, None, 2, site),
        ("2026-03-01 10:00:02+00", "/other", None, None, 1, VISIT),
    ]:
        database.execute(
            "INSERT INTO website_event VALUES (uuid(), ?, ?, ?, ?, ?, ?, 'news', NULL, NULL, '/x', ?, 'Tea', ?, NULL,"
            " 'www.example.com')",
            [website, VISITOR, VISIT, time, path, query, domain, kind],
        )
    found = re.search(r"COPY \((.*)\) TO STDOUT WITH \(FORMAT csv, HEADER\)", recipe("Umami", "sh"), re.DOTALL)
    assert found is not None
    database.execute(f"COPY ({found[1]}) TO 'umami.csv' (HEADER)")
    made("Umami")
    first, second = imported(process)
    assert (VISIT, VISITOR, "/a", "https://www.example.com/a?utm_source=news", "https://news.example/x") == of(
        first, "session_id", "visitor_id", "page_path", "page_url", "page_referrer"
    )
    assert ("news", "chrome", "Windows 10", "laptop", "en-US", "Tea") == of(
        first, "utm_source", "browser", "os", "device_type", "language", "page_title"
    )
    assert (at(2026, 3, 2, 10, 0, 0, 123_000), "/b", "https://www.example.com/b", None) == of(
        second, "received_at", "page_path", "page_url", "page_referrer"
    )


def test_pageviews_of_goatcounter(process: Process) -> None:
    lines = (
        "2Path,Title,Event,UserAgent,Browser,System,Session,Bot,Referrer,Referrer scheme,Screen size,Location,"
        "FirstVisit,Date",
        '/a,Tea,false,,Firefox 130,Linux,3f2a,0,news.example,h,"1440,900,1",DE,true,2026-03-01T10:00:00Z',
        "/b,,false,,,,3f2a,0,,,,,false,2026-03-01T10:00:05Z",
        "/bot,,false,,,,9c1b,3,,,,,true,2026-03-01T10:00:06Z",
        "signup,,true,,,,3f2a,0,,,,,false,2026-03-01T10:00:07Z",
    )
    with gzip.open("goatcounter.csv.gz", "wt") as file:
        file.writelines(f"{line}\n" for line in lines)
    made("GoatCounter")
    first, second = imported(process)
    assert ("3f2a", "/a", "Tea", "news.example", "Firefox 130", "Linux", at(2026, 3, 1, 10)) == of(
        first, "session_id", "page_path", "page_title", "page_referrer", "browser", "os", "received_at"
    )
    assert ("/b", "", first["visitor_id"]) == of(second, "page_path", "page_title", "visitor_id")


def test_pageviews_of_google_analytics(process: Process) -> None:
    """BigQuery writes 64-bit integers as text, and leaves out what is null."""

    def row(name: str, us: int, user: str | None, **texts: str) -> str:
        params = [{"key": key, "value": {"string_value": value}} for key, value in texts.items()]
        return json.dumps(
            {
                "event_date": "20260301",
                "event_name": name,
                "event_timestamp": str(us),
                "event_params": [*params, {"key": "ga_session_id", "value": {"int_value": "1772359200"}}],
                "device": {"category": "mobile", "operating_system": "iOS", "web_info": {"browser": "Safari"}},
                "geo": {"country": "Germany"},
            }
            | ({"user_pseudo_id": user} if user else {})
        )

    start_us = 1_772_359_200_000_000  # 2026-03-01T10:00:00Z
    shop = "https://www.example.com"
    with gzip.open("events_20260301-000000000000.json.gz", "wt") as file:
        for line in (
            row("page_view", start_us + 5_000_000, "12.34", page_location=f"{shop}/b?c=d"),
            row(
                "page_view",
                start_us,
                "12.34",
                page_location=shop,
                page_title="Tea",
                page_referrer="https://news.example/",
            ),
            row("scroll", start_us, "12.34", page_location=shop),
            row("page_view", start_us, None, page_location=shop),
        ):
            file.write(line + "\n")
    made("Google Analytics 4")
    first, second = imported(process)
    assert ("12.34.1772359200", "/", shop, "Tea", "https://news.example/") == of(
        first, "session_id", "page_path", "page_url", "page_title", "page_referrer"
    )
    assert ("Safari", "iOS", "mobile", at(2026, 3, 1, 10)) == of(first, "browser", "os", "device_type", "received_at")
    assert ("/b", f"{shop}/b?c=d", "", first["visitor_id"]) == of(
        second, "page_path", "page_url", "page_title", "visitor_id"
    )


def test_pageviews_of_matomo(process: Process) -> None:
    need(shutil.which("jq") is not None, "jq")
    visit = {
        "idVisit": "25811492",
        "visitIp": "192.0.2.0",
        "visitorId": "e280af5191b64f18",
        "referrerUrl": "https://news.example/",
        "browserName": "Firefox",
        "operatingSystemName": "GNU/Linux",
        "actionDetails": [
            {"type": "action", "url": "https://www.example.com/a?b=c", "pageTitle": "Tea", "timestamp": 1_772_359_200},
            {"type": "outlink", "url": "https://other.example/", "timestamp": 1_772_359_201},
            {"type": "action", "url": "https://www.example.com", "pageTitle": None, "timestamp": 1_772_359_205},
        ],
    }
    Path("visits-2026-03-01.json").write_text(json.dumps([visit]))
    subprocess.run(["sh", "-ec", recipe("Matomo", "sh")], check=True)
    first, second = imported(process)
    assert ("25811492", "e280af5191b64f18", "/a", "Tea", "192.0.2.0", "Firefox", at(2026, 3, 1, 10)) == of(
        first, "session_id", "visitor_id", "page_path", "page_title", "client_ip", "browser", "received_at"
    )
    assert ("/", "") == of(second, "page_path", "page_title")


def test_key_goes_into_a_file_and_its_fingerprint_to_the_terminal(tmp_path: Path) -> None:
    (command,) = [block for block in blocks(PAGE.replace("\n   ", "\n"), "sh") if "collector key" in block]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = subprocess.run(
        ["sh", "-ec", command],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    file = tmp_path / "import.key"
    assert f'"{fingerprint(file.read_text().strip())}"\n' == printed
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
