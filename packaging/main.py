"""The program of the binary: `python -m collector`, with a lock on its folder so that no other version deletes it."""

import fcntl
import os
import sys
from pathlib import Path

from collector.cli.main import main
from collector.cli.streams import open_closed

open_closed()  # or the lock could get the descriptor of a closed standard stream
# Every process takes its own lock: workers do not inherit the launcher's, and they may outlive their supervisor.
# The descriptor is never closed; the lock ends with the process.
fcntl.flock(os.open(Path(sys.executable).parents[1], os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)
sys.exit(main())
