"""Batches against the real process: a bomb, ten years in one batch, and answers that outlive the process."""

import http.client
import json
import resource
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from collector.sender_keys import fingerprint
from tests.support import body, event
from tests.system.process import Process, serving, wait_until

KEY = "ck_test"
KEYS = {"demo": {"keys": [fingerprint(KEY)]}}
GB = 1 << 30
FEW_DESCRIPTORS = 64


def send(collector: Process, data: bytes, **headers: str) -> tuple[int, Any]:
    """Send a batch on a new connection. Returns the status and the answer."""
    address = urlsplit(collector.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/public/demo/batch", data, named)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def with_key(collector: Process, data: bytes) -> tuple[int, Any]:
    return send(collector, data, Authorization=f"Bearer {KEY}")


def counted(answer: tuple[int, Any]) -> tuple[int, int]:
    """Status, and how many events are stored."""
    return answer[0], answer[1]["stored"]


def peak_bytes(collector: Process) -> int:
    (line,) = (
        line
        for line in Path(f"/proc/{collector.popen.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) * 1024


def test_bomb_of_1_gb_leaves_memory_flat(tmp_path: Path) -> None:
    """It unpacks to 250 times the limit of a batch."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    bomb = b"".join([*(packer.compress(zeros) for _ in range(GB >> 20)), packer.flush()])
    with serving(tmp_path) as collector:
        assert 201 == send(collector, body())[0]
        before = peak_bytes(collector)
        for _ in range(3):
            assert 413 == send(collector, bomb, Content_Encoding="gzip")[0]
        assert peak_bytes(collector) - before < 32 << 20
        assert 0 == collector.stop()


def test_ten_years_in_one_batch_make_a_part_a_day_with_few_open_files(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=1)
    moments = [now - timedelta(days=10 * number, seconds=number) for number in range(365)]
    events = [event(received_at=moment.isoformat(), event_time=moment.isoformat()) for moment in moments]
    with serving(tmp_path, KEYS, storage={"flush_interval_s": 600}) as collector:
        resource.prlimit(collector.popen.pid, resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, FEW_DESCRIPTORS))
        assert (201, 365) == counted(with_key(collector, "\n".join(map(json.dumps, events)).encode()))
        assert 0 == collector.stop()
        assert "failed" not in collector.log()
    rows = collector.rows()
    assert sorted(moments) == [row["received_at"] for row in rows] == [row["event_time"] for row in rows]
    days = {path.parent.name for path in collector.parts()}
    assert {f"date={moment:%Y-%m-%d}" for moment in moments} == days
    assert len(days) == len(collector.parts())


@pytest.mark.parametrize("workers", [1, 2])
def test_answer_is_remembered_across_restarts_and_workers(tmp_path: Path, workers: int) -> None:
    server = {"workers": workers, "port": 0}
    first = body(page_path="/first") + b"\n{}"
    with serving(tmp_path, server=server) as collector:
        answers = [send(collector, first, Idempotency_Key="import-1")]
        # Each connection is new, so any worker may get it.
        answers += [send(collector, body(page_path="/again"), Idempotency_Key="import-1") for _ in range(9)]
        assert 0 == collector.stop()
    with serving(tmp_path, server=server) as collector:
        answers.append(send(collector, body(page_path="/again"), Idempotency_Key="import-1"))
        assert (201, 1) == counted(send(collector, body(page_path="/other"), Idempotency_Key="import-2"))
        assert 0 == collector.stop()
    assert (202, 1, 1) == (answers[0][0], answers[0][1]["stored"], answers[0][1]["dropped"])
    assert [answers[0]] * 11 == answers
    assert ["/first", "/other"] == [row["page_path"] for row in collector.rows()]


@pytest.mark.parametrize("durability", ["fsync", "write"])
def test_batch_that_was_stored_but_not_answered_is_stored_once(tmp_path: Path, durability: str) -> None:
    """A kill right after the commit: the client sends the batch again, and gets the answer that it missed."""
    storage = {"durability": durability, "flush_interval_s": 600}
    with serving(tmp_path, storage=storage) as collector:
        send(collector, body(), Idempotency_Key="k")
        collector.popen.kill()
        collector.exit_code()
    answers = tmp_path / "data" / "answers.sqlite"
    assert answers.exists()
    for path in answers.parent.glob("answers.sqlite*"):  # as if the answer had not been written
        path.unlink()
    with serving(tmp_path, storage=storage) as collector:
        wait_until(lambda: answers.exists(), "the segment is recovered")
        assert (201, {"message": "Batch received", "stored": 1}) == send(collector, body(), Idempotency_Key="k")
        assert 0 == collector.stop()
    assert 1 == len(collector.rows())
