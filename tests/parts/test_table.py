"""The memory allocator for columns."""

import subprocess
import sys

PROBE = """
import pyarrow as pa
from collector.parts.table import settle_memory_pool
before = pa.default_memory_pool().backend_name
settle_memory_pool()
print(before, pa.default_memory_pool().backend_name)
"""


def test_serving_process_does_not_use_the_allocator_that_stalls() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    before, after = probe.stdout.split()
    assert "mimalloc" == before, "if Arrow has changed its default, settle_memory_pool may not be needed any more"
    assert after in ("jemalloc", "system")
