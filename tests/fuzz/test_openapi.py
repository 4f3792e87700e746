"""The OpenAPI document: schemathesis generates events that it allows or forbids, and checks each response against it.

A real process serves `/openapi.json` and receives the events.
"""

import json
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

from tests.fuzz.conftest import DOCUMENT_REQUESTS, SEED
from tests.system.process import serving

SITES: dict[str, dict[str, Any]] = {
    "open": {},
    "strict": {"strict": True},
    "off": {"tracking": False},
    "listed": {"allowed_origins": ["https://shop.example"]},
}
ORIGINS = (None, "https://shop.example", "https://a.example", "http://localhost:3000")
PATHS = ("/public/{siteId}/analytics/collect", "/public/{siteId}/e")
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
AT_ONCE = 500  # hypothesis slows down as it remembers more examples

# The status of an event that the document allows, without an origin, by site.
OF_ALLOWED = {"open": 201, "strict": 201, "off": 202, "listed": 201, "nobody": 404}


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_response_conforms_to_the_document(tmp_path: Path, mode: GenerationMode) -> None:
    """Events that it allows are also stored, unless the site or the origin rules them out."""
    stored = sent = 0
    with serving(tmp_path, SITES) as process, requests.Session() as session:
        status, document = process.ask("/openapi.json")
        assert 200 == status
        described = schemathesis.openapi.from_dict(json.loads(document))
        cases = st.one_of([described[path]["POST"].as_strategy(generation_mode=mode) for path in PATHS])
        requested = st.tuples(cases, st.sampled_from(list(OF_ALLOWED)), st.sampled_from(ORIGINS))

        def check(case: schemathesis.Case[Any], site: str, origin: str | None) -> None:
            nonlocal stored, sent
            case.path_parameters = {"siteId": site}
            headers = {} if origin is None else {"Origin": origin}
            answer = case.call(process.url, session, headers)
            sent += 1
            stored += answer.status_code == 201
            assert answer.status_code < 500
            case.validate_response(answer, CHECKS)
            if mode is GenerationMode.POSITIVE and origin is None:
                assert OF_ALLOWED[site] == answer.status_code

        for number in count():
            left = DOCUMENT_REQUESTS // 2 - number * AT_ONCE
            if left <= 0:
                break
            run = given(requested)(lambda made: check(*made))
            run = settings(max_examples=min(left, AT_ONCE), database=None, suppress_health_check=list(HealthCheck))(run)
            hypothesis.seed(crc32(f"{SEED} {number}".encode()))(run)()
        assert 0 == process.stop()
        assert stored == len([row for site in SITES for row in process.rows(site)])
    print(f"{mode.value}: {sent:,} requests, {stored:,} stored")
