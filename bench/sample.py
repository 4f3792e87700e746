"""Sample events: seeded, of all twenty types, no two alike."""

import json
import random
from collections.abc import Iterator
from typing import Any

from collector.events import CONTRACT

PATHS = ("/", "/pricing", "/docs/getting-started", "/blog/2026/05/a-longer-title-of-a-post", "/products/{}")
WORDS = ("summer", "sale", "running", "shoes", "a", "of", "checkout", "the", "blue", "delivery", "free", "returns")
LONG_TEXTS = (
    ("page_url", 1_900),
    ("page_title", 400),
    ("click_element_text", 1_500),
    ("click_target_url", 1_500),
    ("click_element_class", 1_000),
    ("page_referrer", 4_000),
)
TYPES = CONTRACT["properties"]["event_type"]["enum"]


SMALLEST_BYTES = 300  # a smaller event has only the required fields


def bodies(count: int, seed: int = 1, size_bytes: int = 0) -> Iterator[bytes]:
    """Yield JSON of about `size_bytes` each; the smallest possible has about 130 bytes.

    By default an event has 700 to 1,000 bytes: 31 common fields and those of its type. A larger event has longer texts,
    up to the limits of the contract.
    """
    source = random.Random(seed)
    for number in range(count):
        event = _event(source, number)
        if 0 < size_bytes < SMALLEST_BYTES:
            event = {name: event[name] for name in CONTRACT["required"]}
            event["session_id"], event["visitor_id"] = event["session_id"][:8], event["visitor_id"][:12]
        elif size_bytes:
            _lengthen(source, event, size_bytes - len(json.dumps(event)))
        yield json.dumps(event, separators=(",", ":")).encode()


def _lengthen(source: random.Random, event: dict[str, Any], missing: int) -> None:
    """Add text to the fields that are long in practice: the URL, the title, what was clicked, the referrer."""
    for name, most in LONG_TEXTS:
        if missing <= 0:
            return
        words = " ".join(source.choice(WORDS) for _ in range(min(most, missing) // 6 + 1))[: min(most, missing)]
        missing -= len(words)
        event[name] = words if name != "page_url" else f"{event[name]}&q={words.replace(' ', '+')}"


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
    return event | _of_its_type(source, event["event_type"])


def _of_its_type(source: random.Random, event_type: str) -> dict[str, Any]:
    """Return the fields specific to an event type."""
    word = source.choice(WORDS)
    if "form" in event_type:
        return {
            "form_id": f"form-{source.randrange(40)}",
            "form_name": word,
            "field_name": source.choice(("email", "name", "address", "city")),
            "field_type": "text",
            "field_time": source.randrange(20_000),
            "form_completion_rate": round(source.random(), 2),
        }
    if event_type == "file_download":
        return {"file_name": f"{word}-{source.randrange(99)}.pdf", "file_extension": "pdf"}
    if event_type == "copy":
        return {"copied_text": " ".join(source.choice(WORDS) for _ in range(source.randrange(3, 12)))}
    if "click" in event_type or event_type == "outbound_link":
        return {
            "click_x": source.randrange(1600),
            "click_y": source.randrange(900),
            "click_element": source.choice(("a.nav", "button.buy", "div.card > a")),
            "click_element_tag": source.choice(("a", "button", "div")),
            "click_element_text": word,
            "click_count": source.randrange(1, 5),
        }
    return {}
