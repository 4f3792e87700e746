"""Where columns take their memory from."""

import subprocess
import sys

PROBE = """
import pyarrow as pa
from collector.parts.table import settle_memory_pool
before = pa.default_memory_pool().backend_name
settle_memory_pool()
print(before, pa.default_memory_pool().backend_name)
"""


def test_a_serving_process_does_not_take_columns_from_the_pool_that_stalls() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    before, after = probe.stdout.split()
    assert before == "mimalloc"  # or there is nothing to settle any more
    assert after in ("jemalloc", "system")
