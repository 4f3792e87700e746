"""The oracle: a second implementation of the contract. It shares no code with `collector`.

It is written from docs/sending-events.md and docs/fields.md. The property-based tests compare the collector with this
module. It may be slow, and it must accept everything that those pages leave open.
"""

import json
import math
import re
import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CONTRACT_PAGE = """
! session_id            string
! visitor_id            string 8..64
  cookie_visitor_id     string null
  visitor_id_source     string = cookie fingerprint hybrid
! event_type            string = pageview scroll time_on_page cwv exit heartbeat click outbound_link file_download \
    email_click phone_click rage_click dead_click copy form_start form_submit form_abandon form_field form_error \
    heatmap_click
  page_url              string 0..2048
! page_path             string 0..1024
! event_time            string
  page_title            string 0..500
  page_referrer         string null
  scroll_depth          number null
  time_on_page          number null
  engaged_time          number null
  lcp                   number null
  fid                   number null
  cls                   number null
  ttfb                  number null
  inp                   number null
  utm_source            string null
  utm_medium            string null
  utm_campaign          string null
  utm_term              string null
  utm_content           string null
  traffic_source        string null = direct organic social paid referral email internal ai
  device_type           string null = desktop laptop mobile tablet
  browser               string null
  browser_version       string null
  os                    string null
  os_version            string null
  screen_width          number null
  screen_height         number null
  language              string null
  timezone              string null
  referrer_domain       string null
  is_entry              boolean
  is_exit               boolean
  visible               boolean
  max_scroll_depth      number null
  click_x               number null
  click_y               number null
  click_element         string null
  click_element_tag     string null
  click_element_id      string null
  click_element_class   string null
  click_element_text    string null
  click_target_url      string null
  click_count           number null
  viewport_width        number null
  viewport_height       number null
  file_name             string null
  file_extension        string null
  file_url              string null
  copied_text           string null
  scroll_behavior       string null = reading skimming jumping
  form_id               string null
  form_name             string null
  field_name            string null
  field_type            string null
  field_time            number null
  error_message         string null
  form_completion_rate  number null
"""
"""One field a line: `!` if required, the name, the types, the shortest and longest length, and values after `=`."""

_PYTHON_TYPES: dict[str, type] = {"string": str, "number": float, "boolean": bool, "null": type(None)}


class Field:
    """One line of the page."""

    def __init__(self, line: str) -> None:
        rule, _, values = line.partition("=")
        words = rule.split()
        self.required = words[0] == "!"
        self.name, *self.types = [word for word in words if word != "!" and ".." not in word]
        self.shortest, self.longest = next(
            ((int(low), int(high)) for low, dots, high in (word.partition("..") for word in words) if dots),
            (0, sys.maxsize),
        )
        self.values = values.split()

    def admits(self, value: object) -> bool:
        """Whether the field may have this value. Numbers must be floats."""
        if type(value) not in [_PYTHON_TYPES[name] for name in self.types]:
            return False
        if not isinstance(value, str):
            return not isinstance(value, float) or math.isfinite(value)
        return self.shortest <= len(value) <= self.longest and (not self.values or value in self.values)


FIELDS = [Field(line) for line in CONTRACT_PAGE.strip().splitlines()]


def row_of(body: bytes, received_us: int) -> dict[str, Any] | None:
    """The 61 fields and `event_time_raw` as readers must get them. None if the body is not a valid event."""
    event = _read(body)
    if event is None or any(field.required and field.name not in event for field in FIELDS):
        return None
    row = {field.name: event[field.name] for field in FIELDS if field.name in event}
    if not all(field.admits(row[field.name]) for field in FIELDS if field.name in row):
        return None
    words = row["event_time"]
    moment = kept_of(moment_of(words), received_us)
    blank: dict[str, Any] = {field.name: None for field in FIELDS}
    return blank | row | {"event_time": moment, "event_time_raw": words if moment is None else None}


def _read(body: bytes) -> dict[str, Any] | None:
    """Parse the object: numbers as the nearest float64, U+FFFD for each lone surrogate. None for NaN or an infinity."""
    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode()
        # Not strict: allows raw control characters ...
        event = json.loads(text, strict=False, parse_int=float, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or "\0" in text:  # ... except NUL
        return None
    return {name: _without_surrogates(value) if isinstance(value, str) else value for name, value in event.items()}


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _without_surrogates(text: str) -> str:
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def kept_of(moment: datetime | None, received_us: int) -> datetime | None:
    """Return the moment if it is at most a day after the receipt and at most ten calendar years before it.

    Ten years before 29 February is 28 February if that year has no 29th.
    """
    received = EPOCH + timedelta(microseconds=received_us)
    try:
        oldest = received.replace(year=received.year - 10)
    except ValueError:
        oldest = received.replace(year=received.year - 10, day=28)
    return moment if moment and oldest <= moment <= received + timedelta(days=1) else None


def moment_of(words: str) -> datetime | None:
    """Parse an RFC 3339 date-time, cut to microseconds. Without an offset, the time is UTC."""
    match = re.fullmatch(
        r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
        r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))?",
        words,
    )
    if not match:
        return None
    year, month, day, hour, minute, second = (int(group) for group in match.groups()[:6])
    offset_h, offset_min = int(match[9] or 0), int(match[10] or 0)
    if max(hour, offset_h) > 23 or max(minute, second, offset_min) > 59:
        return None
    east = (-1 if match[8] == "-" else 1) * timedelta(hours=offset_h, minutes=offset_min)
    fraction_us = int((match[7] or "0")[:6].ljust(6, "0"))
    try:
        days = date(year, month, day).toordinal() - date(1970, 1, 1).toordinal()
        since_epoch = timedelta(days, second, fraction_us, 0, minute, hour)
        return EPOCH + (since_epoch - east)
    except (ValueError, OverflowError):
        return None
