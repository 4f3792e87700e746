"""The length of a fuzz run: `make fuzz` runs a million requests, `make test` some of the same.

A million took 21 minutes beside other work (2026-11-25, 2-core AMD EPYC), of which schemathesis took 2 for its 20,000.
Each collector grew from 167 to 265 MB: broken connections leave cycles, and there was no full collection in that time.

FUZZ_REQUESTS says how many there are in all, FUZZ_SEED which, and FUZZ_FIRST from which conversation of these on: a
failure prints what makes it again.
"""

import os
import secrets

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "20000"))
SEED = os.environ.get("FUZZ_SEED") or secrets.token_hex(4)
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))

DOCUMENT_REQUESTS = REQUESTS // 50  # schemathesis takes 15 ms and more to make one
LAPS = min(max(REQUESTS // 20_000, 4), 50, REQUESTS)


def lap_requests() -> int:
    """How many requests of bytes each lap has."""
    return (REQUESTS - DOCUMENT_REQUESTS) // LAPS


def pytest_report_header() -> str:
    return f"fuzz: {REQUESTS:,} requests, FUZZ_SEED={SEED}"
