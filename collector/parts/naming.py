"""Names: where a part lies, and what its name says.

    events/site=<id>/date=YYYY-MM-DD/<segment>.parquet     partition_by = ["site", "date"]
    events/date=YYYY-MM-DD/<segment>.parquet               partition_by = ["date"]
    rejected/site=<id>/date=YYYY-MM-DD/<segment>.parquet

`date` is the UTC day of receipt. `<segment>` is 64 random bits in hex: a function of the segment alone, so a
flush that is tried again finds what it already published, and no restart or cloned machine repeats a name.
"""

import secrets
from datetime import date
from pathlib import Path

EVENTS = "events"
REJECTED = "rejected"
STAGING = "staging"
EXPIRED = "expired"  # below staging: days that are being deleted

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def new_segment_id() -> str:
    """Sixteen hex digits that no other segment has."""
    return secrets.token_hex(8)


def part_path(data_dir: Path, dataset: str, segment: str, day: int, site_id: str | None) -> Path:
    """The final path of a part; `day` counts from 1970-01-01, and without a site all sites share the part."""
    folder = data_dir / dataset
    if site_id is not None:
        folder /= f"site={site_id}"
    return folder / f"date={date.fromordinal(_EPOCH_ORDINAL + day).isoformat()}" / f"{segment}.parquet"
