"""The OpenAPI document: schemathesis generates events that it allows or forbids, and checks each response against it.

A real process serves `/openapi.json` and receives the events.
"""

import json
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from collector.sender_keys import fingerprint
from tests.fuzz.conftest import DOCUMENT_REQUESTS, SEED
from tests.system.process import serving

KEY = "ck_of-a-sender"
SITES: dict[str, dict[str, Any]] = {
    "open": {},
    "strict": {"strict": True},
    "off": {"tracking": False},
    "listed": {"allowed_origins": ["https://shop.example"]},
    "keyed": {"keys": [fingerprint(KEY)]},
}
AUTHORIZATIONS = (None, None, f"Bearer {KEY}", "Bearer wrong", "Basic YTpi")
ORIGINS = (None, "https://shop.example", "https://a.example", "http://localhost:3000")
NDJSON = "application/x-ndjson"
BATCH = "/public/{siteId}/batch"
PIXEL = "/public/{siteId}/p.gif"
PATHS = ("/public/{siteId}/analytics/collect", "/public/{siteId}/e", BATCH)
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
AT_ONCE = 500  # hypothesis slows down as it remembers more examples

# The status of an event that the document allows, without an origin, by site.
OF_ALLOWED = {"open": 201, "strict": 201, "off": 202, "listed": 201, "keyed": 201, "nobody": 404}
REASONS = {"off": "tracking_disabled", "nobody": "unknown_site"}  # for which its pixel is not stored


@dataclass(slots=True)
class Tally:
    """The events that the answers call stored, without those to a batch whose key was used before."""

    sent: int = 0
    stored: int = 0
    keys: set[tuple[str, str]] = field(default_factory=set)  # of batches of which something is stored

    def enter(self, site: str, answer: schemathesis.Response) -> bool:
        """Enter an answer. Returns whether its request was judged, and not answered as another one was."""
        self.sent += 1
        if answer.status_code == 200:
            self.stored += answer.request.method == "GET" and "collect-reason" not in answer.headers
            return True
        said = answer.json() if answer.status_code in (201, 202, 422) else {}
        stored = said.get("stored", int(answer.status_code == 201))
        key = answer.request.headers.get("Idempotency-Key")
        if key is not None and stored:
            used = (site, str(key))
            if used in self.keys:
                return False
            self.keys.add(used)
        self.stored += stored
        return True


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_response_conforms_to_the_document(tmp_path: Path, mode: GenerationMode) -> None:
    """Events that it allows are also stored, unless the site, the origin or the key rules them out."""
    tally = Tally()
    with serving(tmp_path, SITES) as process, requests.Session() as session:
        status, document = process.ask("/openapi.json")
        assert 200 == status
        described = schemathesis.openapi.from_dict(json.loads(document))
        operations = [described[path]["POST"] for path in PATHS] + [described[PIXEL][name] for name in ("GET", "HEAD")]
        cases = st.one_of([operation.as_strategy(generation_mode=mode) for operation in operations])
        requested = st.tuples(
            cases, st.sampled_from(list(OF_ALLOWED)), st.sampled_from(ORIGINS), st.sampled_from(AUTHORIZATIONS)
        )

        def check(case: schemathesis.Case[Any], site: str, origin: str | None, authorization: str | None) -> None:
            case.path_parameters = {"siteId": site}
            named = {"Origin": origin, "Authorization": authorization}
            answer = case.call(process.url, session, {name: value for name, value in named.items() if value})
            is_judged = tally.enter(site, answer)
            assert answer.status_code < 500
            case.validate_response(answer, CHECKS)
            if case.method in ("GET", "HEAD"):
                assert answer.status_code in (200, 400)  # 400: a negative case may have a header that breaks HTTP
                if (mode, case.method) == (GenerationMode.POSITIVE, "GET"):
                    assert REASONS.get(site) == answer.headers.get("collect-reason", [None])[0]
            elif site == "keyed" and authorization == "Bearer wrong":
                assert 401 == answer.status_code
            elif mode is GenerationMode.POSITIVE and origin is None and is_judged and case.media_type != NDJSON:
                assert OF_ALLOWED[site] == answer.status_code

        for number in count():
            left = DOCUMENT_REQUESTS // 2 - number * AT_ONCE
            if left <= 0:
                break
            run = given(requested)(lambda made: check(*made))
            run = settings(max_examples=min(left, AT_ONCE), database=None, suppress_health_check=list(HealthCheck))(run)
            hypothesis.seed(crc32(f"{SEED} {number}".encode()))(run)()
        assert 0 == process.stop()
        assert tally.stored == len([row for site in SITES for row in process.rows(site)])
    print(f"{mode.value}: {tally.sent:,} requests, {tally.stored:,} events stored")
