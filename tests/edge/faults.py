"""Requests with several faults at once, to test which one decides the response."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from collector.edge.client_ip import Client
from tests.edge.conftest import Serve
from tests.edge.wire import head
from tests.support import Running, body

LOOPBACK = Client(IPv4Address("127.0.0.1"))
MAX_BODY_BYTES = 512
LOCALHOST = b"http://localhost:3000"
ELSEWHERE = b"https://elsewhere.example"

# The faults that a request can have, in the order in which the collector checks for them (`Decider._check`).
FAULTS = (
    "method",
    "unknown site",
    "rate",
    "no room",
    "tracking off",
    "opted out",
    "localhost",
    "origin",
    "address",
    "bot",
    "size",
    "encoding",
    "json",
    "schema",
    "path",
)
NEED_THE_BODY = FAULTS[FAULTS.index("json") :]

# The status, reason and message of the response to each.
ANSWERS = {
    "method": (405, "method", "Method not allowed"),
    "unknown site": (404, "unknown_site", "Site not found"),
    "rate": (429, "rate_limited", "Too many requests"),
    "no room": (503, "unavailable", "Collector temporarily unavailable"),
    "tracking off": (202, "tracking_disabled", "Tracking is disabled for this site"),
    "opted out": (202, "opted_out", "Client has opted out of tracking"),
    "localhost": (202, "localhost", "Events from localhost are not tracked"),
    "origin": (403, "origin_not_allowed", "Origin not allowed"),
    "address": (202, "excluded_ip", "IP address is excluded"),
    "bot": (202, "bot", "Bots are not tracked"),
    "size": (413, "too_large", f"Body is larger than {MAX_BODY_BYTES} bytes"),
    "encoding": (415, "encoding", "Content-Encoding is not supported"),
    "json": (202, "invalid", "Validation error: body is not one JSON object"),
    "schema": (202, "invalid", "Validation error: session_id must be a string"),
    "path": (202, "excluded_path", "Page path is excluded"),
}


@dataclass(frozen=True, slots=True)
class Faulty:
    """A request with faults, and the site whose counts it changes."""

    head: bytes
    body: bytes
    origin: str
    counted_for: str

    @property
    def whole(self) -> bytes:
        return self.head + self.body


def faulty(*faults: str) -> Faulty:
    """A request with those of the faults that a request can have."""
    data = body(page_path="/admin/users", **({"session_id": 1} if "schema" in faults else {}))
    if "json" in faults:
        data = data[:-1]
    if "size" in faults:
        data += b" " * MAX_BODY_BYTES
    origin = LOCALHOST if "localhost" in faults else ELSEWHERE
    lines = [b"Origin: " + origin, b"Content-Length: %d" % len(data)]
    if "opted out" in faults:
        lines.append(b"DNT: 1")
    if "bot" in faults:
        lines.append(b"User-Agent: Googlebot/2.1")
    if "encoding" in faults:
        lines.append(b"Content-Encoding: br")
    text = head(
        *lines,
        method="PUT" if "method" in faults else "POST",
        site="nobody" if "unknown site" in faults else "demo",
    )
    return Faulty(text, data, origin.decode(), "(unknown)" if {"method", "unknown site"} & {*faults} else "demo")


async def collector_with(serve: Serve, *faults: str) -> Running:
    """A collector with those of the faults that lie in its settings or state. Its counts are zero."""
    site = {
        "tracking": "tracking off" not in faults,
        "allowed_origins": ["https://shop.example"] if "origin" in faults else [],
        "respect_dnt": "opted out" in faults,
        "bots": "drop" if "bot" in faults else "flag",
        "excluded_ips": ["127.0.0.1"] if "address" in faults else [],
        "excluded_paths": ["/admin/*"] if "path" in faults else [],
    }
    collector = await serve(
        {"demo": site},
        server={"max_body_bytes": MAX_BODY_BYTES, "body_timeout_s": 0.5},
        rate_limit={"requests_per_minute": 1, "burst": 1},
    )
    if "rate" in faults:
        collector.stages.decider.rules.buckets.take(LOOPBACK)
    collector.stages.journal.blocked_reason = "disk space is low" if "no room" in faults else None
    return collector
