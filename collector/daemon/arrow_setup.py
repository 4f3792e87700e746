"""Sets up pyarrow for a process that serves. Does not import it."""

import os
import sys

from collector.portable import LINUX


def set_up_arrow() -> None:
    """Choose pyarrow's allocator and optional imports. It reads both when it is imported, so call this before.

    `settle_memory_pool` chooses the allocator for columns. Arrow's own code, such as the encoders of Parquet, uses the
    one named in the environment. By default that is mimalloc, which kept 30 MB for good after the first flush
    (`python -m bench.resident`).
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc" if LINUX else "system")
    if "pyarrow" in sys.modules:  # it has imported them, or keeps a place for them
        return
    # pyarrow imports these if they are installed. Serving needs neither; together they take 46 MB.
    for unused in ("numpy", "pandas"):
        sys.modules.setdefault(unused, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
