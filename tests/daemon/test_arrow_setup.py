"""What pyarrow imports and allocates with in a process that serves."""

import subprocess
import sys

from collector.portable import LINUX

PROBE = """
import sys
from collector.daemon.arrow_setup import set_up_arrow
set_up_arrow()
from collector.daemon.worker import warm_up
import pyarrow as pa
print(pa.default_memory_pool().backend_name)
warm_up()
print(*sorted({"numpy", "pandas"} & {name for name, module in sys.modules.items() if module}))
"""


def test_serving_process_imports_no_pandas_and_uses_one_allocator() -> None:
    """This environment has pandas, which pyarrow would import."""
    probe = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    allocator, imported = probe.stdout.split("\n")[:2]
    assert ("jemalloc" if LINUX else "system") == allocator, "the allocator that Arrow's own code uses"
    assert "" == imported
