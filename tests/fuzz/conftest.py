"""The length of a fuzz run: `make fuzz` sends a million requests, `make test` 20,000.

A million took 21 minutes on a busy machine (2026-11-25, 2-core AMD EPYC), of which schemathesis took 2 for its 20,000.
Each collector grew from 167 to 265 MB: broken connections leave reference cycles, and no full collection ran meanwhile.

FUZZ_REQUESTS is the total number of requests, FUZZ_SEED the seed, and FUZZ_FIRST the number of the first conversation.
A failure prints the values that reproduce it.
"""

import os
import secrets

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "20000"))
SEED = os.environ.get("FUZZ_SEED") or secrets.token_hex(4)
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))

DOCUMENT_REQUESTS = REQUESTS // 50  # schemathesis takes at least 15 ms to generate one
LAPS = min(max(REQUESTS // 20_000, 4), 50, REQUESTS)


def lap_requests() -> int:
    """Return the number of requests that test_bytes.py sends in each lap."""
    return (REQUESTS - DOCUMENT_REQUESTS) // LAPS


def pytest_report_header() -> str:
    return f"fuzz: {REQUESTS:,} requests, FUZZ_SEED={SEED}"
