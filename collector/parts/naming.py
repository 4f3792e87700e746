"""Names: where parts are stored, and what their names mean.

    events/site=<id>/date=YYYY-MM-DD/<segment>.parquet     partition_by = ["site", "date"]
    events/date=YYYY-MM-DD/<segment>.parquet               partition_by = ["date"]
    rejected/site=<id>/date=YYYY-MM-DD/<segment>.parquet

`date` is the UTC day of receipt. `<segment>` is the segment's id, 64 random bits in hex. A part's name depends only on
its segment, so a retried flush finds the parts it has already published. Random ids do not repeat after a restart or on
a cloned machine.
"""

import secrets
from datetime import date
from pathlib import Path

EVENTS = "events"
REJECTED = "rejected"
STAGING = "staging"
EXPIRED = "expired"  # below staging/: days that are being deleted

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def new_segment_id() -> str:
    """Return a new segment id: 16 random hex digits."""
    return secrets.token_hex(8)


def site_folder(data_dir: Path, dataset: str, site_id: str) -> Path:
    """Return the folder of a site's days."""
    return data_dir / dataset / f"site={site_id}"


def part_path(data_dir: Path, dataset: str, segment: str, day: int, site_id: str | None) -> Path:
    """Return the final path of a part. `day` counts from 1970-01-01. Without `site_id`, all sites share the part."""
    folder = data_dir / dataset if site_id is None else site_folder(data_dir, dataset, site_id)
    return folder / f"date={date.fromordinal(_EPOCH_ORDINAL + day).isoformat()}" / f"{segment}.parquet"
