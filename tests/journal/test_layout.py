"""Layouts: which ones a data_dir holds, found without listing all of it."""

import os
from pathlib import Path
from typing import Any

import pytest

from collector.journal.layout import BY_DATE, BY_SITE, Held, Layout, held, other
from collector.journal.record import Header, encode_header
from collector.journal.segment import SegmentStore
from collector.publish.local import Folders

ID = "0123456789abcdef"
DAY = "date=2026-05-28"
NOTHING = Held(parts=False, segments=False)
PARTS = Held(parts=True, segments=False)
SEGMENTS = Held(parts=False, segments=True)


def put(file: Path, data: bytes = b"") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("by_site", "by_date", "names"),
    [
        (NOTHING, NOTHING, []),
        (PARTS, NOTHING, [f"events/site=demo/{DAY}/{ID}.parquet"]),
        (NOTHING, PARTS, [f"events/{DAY}/{ID}.parquet"]),
        (PARTS, PARTS, [f"events/site=demo/{DAY}/{ID}.parquet", f"events/{DAY}/{ID}.parquet"]),
        # Folders that expiry has emptied, and files that are not parts.
        (NOTHING, NOTHING, ["events/site=demo/", f"events/site=other/{DAY}/", f"events/{DAY}/"]),
        (NOTHING, NOTHING, ["events/README", f"events/{DAY}/README", "events/site=demo/README"]),
        (PARTS, NOTHING, ["events/site=a/", "events/site=b/README", f"events/site=c/{DAY}/{ID}.parquet"]),
        # `rejected/` is always by site; staging and quarantine have no layout.
        (NOTHING, NOTHING, [f"rejected/site=demo/{DAY}/{ID}.parquet", f"staging/0/{ID}.parquet"]),
        (NOTHING, NOTHING, ["lock", "journal/0/", "events"]),
        (NOTHING, NOTHING, ["journal"]),
    ],
)
def test_parts_of_each_layout_are_found(tmp_path: Path, by_site: Held, by_date: Held, names: list[str]) -> None:
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            put(tmp_path / name)
    assert (by_site, by_date) == (held(tmp_path, BY_SITE), held(tmp_path, BY_DATE))


@pytest.mark.parametrize(("layout", "worker"), [(BY_SITE, "0"), (BY_DATE, "7")])
def test_segments_of_each_layout_are_found(tmp_path: Path, layout: Layout, worker: str) -> None:
    SegmentStore(Folders(tmp_path), worker, by_site=layout == BY_SITE, durability="write").create().close()
    assert (SEGMENTS, NOTHING) == (held(tmp_path, layout), held(tmp_path, other(layout)))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        encode_header(Header(ID, by_site=False))[:-1],
        encode_header(Header(ID, by_site=False))[:-1] + b"\xff",
        b"collseg\n\x02" + encode_header(Header(ID, by_site=False))[9:],
        bytes(36),
    ],
)
def test_segment_without_a_readable_header_belongs_to_no_layout(tmp_path: Path, header: bytes) -> None:
    """Its flush uses the present layout."""
    put(tmp_path / "journal" / "0" / f"20260528T202640Z-{ID}.segment", header)
    put(tmp_path / "journal" / "0" / "notes", encode_header(Header(ID, by_site=False)))
    assert (NOTHING, NOTHING) == (held(tmp_path, BY_SITE), held(tmp_path, BY_DATE))


def test_missing_data_dir_holds_nothing(tmp_path: Path) -> None:
    put(tmp_path / "plain")
    for data_dir in (tmp_path / "none", tmp_path / "plain", tmp_path / ("x" * 300)):
        assert (NOTHING, NOTHING) == (held(data_dir, BY_SITE), held(data_dir, BY_DATE))


def test_search_stops_at_the_first_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise 10,000 sites would delay every start."""
    for site in range(50):
        put(tmp_path / "events" / f"site={site}" / DAY / f"{ID}.parquet")
    listed: list[Any] = []
    scandir = os.scandir

    def counting(folder: Any) -> Any:
        listed.append(folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", counting)
    for layout, folders in ((BY_SITE, ["journal", "events", "a site", "a day"]), (BY_DATE, ["journal", "events"])):
        listed.clear()
        held(tmp_path, layout)
        assert len(folders) == len(listed), listed
