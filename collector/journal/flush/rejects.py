"""Rejects: a sample of the events that broke the contract, so that a site's owner can see why nothing arrives.

Rejects are kept on a best-effort basis, without the guarantee of a 201. They are limited by site and in total for each
minute, in memory, and on disk, where the oldest days are deleted first. Events that a setting excludes are never kept.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from collector.clock import US_PER_DAY, US_PER_S
from collector.parts.naming import REJECTED, new_segment_id
from collector.parts.section import Group, Part
from collector.parts.table import REJECTED_SCHEMA, record_batch
from collector.parts.writer import PartWriter
from collector.wording import count
from collector.worker_slot import ONLY_WORKER, WorkerSlot

log = logging.getLogger(__name__)

# A broken page repeats the same mistake: 1,000 examples a minute show it, and leave room for other sites.
SITE_MAX_PER_MINUTE = 1_000
MAX_PER_MINUTE = 10_000
MAX_WAITING_BYTES = 16 << 20

# Memory of a reject besides its message and body, and of a group (a site and day) besides its rejects. Measured as 232
# and 260 bytes of resident memory, with 300,000 rejects.
REJECT_BYTES = 232
GROUP_BYTES = 264

# After this many failures in a row the disk must be at fault, not a site's folder. Up to 10,000 parts may still follow.
GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class Rejected:
    """A body that broke the contract."""

    received_us: int
    message: str  # one of our own messages, always ASCII
    body: bytes

    @property
    def size_bytes(self) -> int:
        """How much memory it takes, without its group."""
        return REJECT_BYTES + len(self.message) + len(self.body)


class Rejects:
    """Rejects that wait to be written to `rejected/`. The event loop's thread owns it."""

    def __init__(self, *, enabled: bool, slot: WorkerSlot = ONLY_WORKER) -> None:
        self._enabled = enabled
        self._max_waiting_bytes = slot.of(MAX_WAITING_BYTES)
        self._site_max_per_minute = slot.of(SITE_MAX_PER_MINUTE)
        self._max_per_minute = slot.of(MAX_PER_MINUTE)
        self._waiting: dict[Group, list[Rejected]] = {}
        self._waiting_bytes = 0
        self._minute = 0
        self._of_site: Counter[str] = Counter()  # in this minute
        self._of_all = 0  # the sum over all sites; summing 10,000 sites for each event took 49 us

    def keep(self, site_id: str, rejected: Rejected) -> bool:
        """Keep a reject if the limits allow it. Returns whether it was kept."""
        minute = rejected.received_us // (60 * US_PER_S)
        if minute != self._minute:
            self._minute, self._of_all = minute, 0
            self._of_site.clear()
        if (
            not self._enabled
            or self._of_all >= self._max_per_minute
            or self._of_site[site_id] >= self._site_max_per_minute
        ):
            return False
        group = (rejected.received_us // US_PER_DAY, site_id)
        size_bytes = rejected.size_bytes + (0 if group in self._waiting else GROUP_BYTES)
        if self._waiting_bytes + size_bytes > self._max_waiting_bytes:
            return False
        self._of_site[site_id] += 1
        self._of_all += 1
        self._waiting_bytes += size_bytes
        self._waiting.setdefault(group, []).append(rejected)
        return True

    def take(self) -> dict[Group, list[Rejected]]:
        """Remove and return all waiting rejects, by day and site."""
        taken, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        return taken


class RejectedStore:
    """The files of `rejected/`, which all workers together keep below `max_bytes`. Runs in the flush thread."""

    def __init__(self, writer: PartWriter, max_bytes: int, slot: WorkerSlot = ONLY_WORKER) -> None:
        self._writer = writer
        self._root = writer.data_dir / REJECTED
        self._max_bytes = max_bytes
        self._slot = slot
        self._left_bytes = -1  # our share of the free room; below 0, the folder must be measured again
        self._is_over = False  # the folder was over the limit, and not enough files could be deleted

    def write(self, taken: dict[Group, list[Rejected]]) -> int:
        """Publish the rejects, delete the oldest files if over the limit, and return the number of published rows.

        Logs failures. Raises OSError only if there is no room and not enough files can be deleted. Then nothing
        was written.
        """
        if self._is_over:
            self._make_room()
        name = new_segment_id()
        rows = failed = 0
        for group, rejects in sorted(taken.items()):
            try:
                part = self._publish(name, group, _to_batch(rejects))
            except Exception as exc:  # noqa: BLE001 - whatever failed, the next group may succeed
                events = count(len(rejects), "rejected event")
                log.warning("%s of site %s could not be written: %s", events, group[1], exc)
                failed += 1
                if failed >= GIVE_UP_AFTER:
                    break
            else:
                failed = 0
                self._left_bytes -= part.size_bytes
                rows += part.rows
        if self._left_bytes < 0:
            try:
                self._make_room()
            except OSError as exc:
                log.warning("rejected/ cannot be kept below %d bytes: %s", self._max_bytes, exc)
        return rows

    def _publish(self, name: str, group: Group, batch: pa.RecordBatch) -> Part:
        """Publish one part. The second attempt keeps a part that was published but not synced. Raises OSError."""
        try:
            return self._writer.write_rejected(name, group, batch)
        except OSError:
            return self._writer.write_rejected(name, group, batch)

    def _make_room(self) -> None:
        """Delete the oldest files until the folder fits. Raises OSError if it still does not."""
        self._is_over = True
        self._left_bytes = self._slot.of(self._max_bytes - self._drop_oldest())
        self._is_over = False

    def _drop_oldest(self) -> int:
        """Delete the oldest files while over the limit, and return the size left. Raises OSError if still over."""
        files = sorted(self._files())
        size_bytes = sum(size for _, _, size, _ in files)
        failure: OSError | None = None
        for _, _, size, path in files:
            if size_bytes <= self._max_bytes:
                break
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:  # a newer file may still be deletable
                failure = failure or exc
                continue
            size_bytes -= size
            with suppress(OSError):  # the folder still has parts
                path.parent.rmdir()
        if failure is not None and size_bytes > self._max_bytes:
            raise failure
        return size_bytes

    def _files(self) -> Iterator[tuple[str, int, int, Path]]:
        """Yield (folder of the day, time of writing, size, path) of every part; sorted, the oldest comes first."""
        for path in self._root.glob("site=*/date=*/*.parquet"):
            with suppress(FileNotFoundError):  # an expiry may run at the same time
                stat = path.stat()
                yield path.parent.name, stat.st_mtime_ns, stat.st_size, path


def _to_batch(rejects: list[Rejected]) -> pa.RecordBatch:
    return record_batch(
        (
            [rejected.received_us for rejected in rejects],
            [rejected.message for rejected in rejects],
            [rejected.body.decode("utf-8", "replace") for rejected in rejects],
        ),
        REJECTED_SCHEMA,
    )
