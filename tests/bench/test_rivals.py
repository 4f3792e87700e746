"""The servers that the collector is compared with check the contract, and store what they acknowledge."""

import http.client
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.compare import in_order
from bench.rivals import BUN, FASTIFY, HERE, RIVALS, SCHEMA, Rival
from bench.sample import bodies

CONTRACT = json.loads(SCHEMA.read_text())
EVENT = {
    "session_id": "s-1",
    "visitor_id": "visitor-1",
    "event_type": "pageview",
    "page_path": "/pricing",
    "event_time": "2026-05-12T10:00:00Z",
}
WRONG = {"string": 5, "number": "5", "boolean": "true"}
CHECKING = [pytest.param(rival, id=rival.name) for rival in RIVALS if rival.checks]


def broken() -> Iterator[bytes]:
    """Yield bodies that each break one rule of the contract: all rules of all fields."""
    yield from (b"", b"{", b"[]", b"null", b'{"session_id":"\xff"}')
    for name in CONTRACT["required"]:
        yield json.dumps({key: value for key, value in EVENT.items() if key != name}).encode()
    for name, rule in CONTRACT["properties"].items():
        kinds = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        values: list[Any] = [WRONG[kind] for kind in kinds if kind != "null"]
        values += [[]] + ([] if "null" in kinds else [None]) + (["none of these"] if "enum" in rule else [])
        values += ["x" * (rule["minLength"] - 1)] if "minLength" in rule else []
        values += ["x" * (rule["maxLength"] + 1)] if "maxLength" in rule else []
        yield from (json.dumps(EVENT | {name: value}).encode() for value in values)


def statuses(url: str, sent: list[bytes]) -> list[int]:
    """Send each body, and return the statuses."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    found = []
    for body in sent:
        connection.request("POST", "/public/demo/analytics/collect", body, {"Content-Type": "text/plain"})
        with connection.getresponse() as response:
            text = response.read()
            found.append(response.status)
        if response.status == 201:
            assert {"message": "Event received"} == json.loads(text)
    connection.close()
    return found


@pytest.mark.parametrize("rival", CHECKING)
def test_rival_stores_valid_events_and_refuses_each_breach_of_the_contract(rival: Rival, tmp_path: Path) -> None:
    missing = rival.missing()
    if missing:
        pytest.skip(missing)
    valid, invalid = [json.dumps(EVENT | {"unknown": 1}, indent=1).encode(), *bodies(200)], list(broken())
    with rival.serving(tmp_path, None) as server:
        assert len(valid) * [201] == statuses(server.url, valid)
        accepted = [
            body for body, status in zip(invalid, statuses(server.url, invalid), strict=True) if not 400 <= status < 500
        ]
        assert [] == accepted
        server.stop()
    assert rival.stored(tmp_path) in (None, len(valid))


@pytest.mark.parametrize("rival", [pytest.param(rival, id=rival.name) for rival in RIVALS])
def test_rival_has_versions(rival: Rival) -> None:
    missing = rival.missing()
    if missing:
        pytest.skip(missing)
    versions = rival.versions()
    assert versions
    assert all(re.match(r"\d+\.\d", version) for version in versions.values()), versions


@pytest.mark.parametrize("rival", [pytest.param(rival, id=rival.name) for rival in RIVALS])
def test_whatever_is_missing_is_named(rival: Rival, tmp_path: Path) -> None:
    for at, (need, remedy) in enumerate(rival.needs):
        absent = str(tmp_path / Path(need).name) if "/" in need else f"{need}-not-installed"
        present = ((shutil.which("sh") or "", ""),) * at
        found = replace(rival, needs=(*present, (absent, remedy))).missing()
        assert f"{Path(absent).name} is missing: {remedy}" == found


def test_files_of_the_rivals_exist() -> None:
    for rival in RIVALS:
        for word in (*rival.command, *([f"@HERE@/{rival.config}"] if rival.config else [])):
            if word.startswith("@HERE@/"):
                assert (HERE / word.removeprefix("@HERE@/")).is_file()


@pytest.mark.parametrize("folder", [BUN, FASTIFY], ids=lambda folder: folder.name)
def test_npm_packages_are_pinned_without_naming_a_registry(folder: Path) -> None:
    lock = json.loads((folder / "package-lock.json").read_text())
    manifest = json.loads((folder / "package.json").read_text())
    assert manifest["dependencies"] == lock["packages"].pop("")["dependencies"]
    for name, package in lock["packages"].items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


def test_every_rival_runs_next_to_the_collector() -> None:
    """Before it in one round, after it in the next."""
    a, b, c = RIVALS[:3]
    there = [(0, a), (0, None), (0, b), (1, c), (1, None)]
    assert there == in_order([a, b, c], 0)
    assert there[::-1] == in_order([a, b, c], 1)
    assert [(0, None)] == in_order([], 0)
