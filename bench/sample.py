"""Events to measure with: seeded, of the twenty types, none like another."""

import json
import random
from collections.abc import Iterator
from typing import Any

from collector.events import CONTRACT

PATHS = ("/", "/pricing", "/docs/getting-started", "/blog/2026/05/a-longer-title-of-a-post", "/products/{}")
TYPES = CONTRACT["properties"]["event_type"]["enum"]


def bodies(count: int, seed: int = 1) -> Iterator[bytes]:
    """JSON of 600 to 900 bytes, about 29 fields each."""
    source = random.Random(seed)
    for number in range(count):
        yield json.dumps(_event(source, number)).encode()


def _event(source: random.Random, number: int) -> dict[str, Any]:
    path = source.choice(PATHS).format(source.randrange(10_000))
    event: dict[str, Any] = {
        "session_id": f"{source.getrandbits(96):024x}",
        "visitor_id": f"{source.getrandbits(128):032x}",
        "visitor_id_source": source.choice(("cookie", "fingerprint", "hybrid")),
        "event_type": source.choice(TYPES),
        "page_url": f"https://www.example.com{path}?ref={source.randrange(1000)}",
        "page_path": path,
        "event_time": f"2026-05-12T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.123Z",
        "page_title": f"Page {source.randrange(500)} of the shop",
        "page_referrer": source.choice((None, "https://www.google.com/", "https://news.example.org/item")),
        "utm_source": source.choice((None, "google", "newsletter")),
        "device_type": source.choice(("desktop", "mobile", "tablet")),
        "browser": source.choice(("Chrome", "Firefox", "Safari")),
        "browser_version": f"{source.randrange(90, 150)}.0",
        "os": source.choice(("Windows", "macOS", "Android", "iOS")),
        "os_version": str(source.randrange(10, 18)),
        "language": source.choice(("en-US", "fr-FR", "de-DE")),
        "timezone": source.choice(("Europe/Paris", "America/New_York", "Asia/Tokyo")),
        "is_entry": source.random() < 0.3,
        "is_exit": False,
        "visible": True,
    }
    for name in ("scroll_depth", "time_on_page", "engaged_time", "lcp", "cls", "ttfb", "inp"):
        event[name] = round(source.random() * 3000, 2)
    for name in ("screen_width", "screen_height", "viewport_width", "viewport_height"):
        event[name] = source.randrange(400, 4000)
    return event
