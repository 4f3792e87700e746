"""`python -m collector`."""

import sys

from collector.boot.cli import main

sys.exit(main())
