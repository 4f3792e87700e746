"""What the binary runs: `python -m collector`, from a folder that no other version deletes meanwhile."""

import fcntl
import os
import sys
from pathlib import Path

from collector.cli.main import main
from collector.cli.streams import open_closed

open_closed()  # or the lock would be a standard stream
# Each process for itself: the launcher's lock is not handed down to workers, and they may outlive their supervisor.
# Never closed; dies with the process.
fcntl.flock(os.open(Path(sys.executable).parents[1], os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)
sys.exit(main())
