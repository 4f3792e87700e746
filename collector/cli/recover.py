"""`collector recover`: publish the events left in the journal, without serving."""

import logging
import sys
from argparse import ArgumentParser, Namespace

from collector.cli.config_argument import add_config_argument
from collector.cli.data_dir import existing
from collector.cli.progress import with_progress
from collector.clock import SystemClock
from collector.config_file import load
from collector.daemon.resources import StartError, owned
from collector.daemon.wiring import build_stages
from collector.journal.record import JOURNAL
from collector.log.setup import set_up_logging
from collector.wording import count


def add_arguments(parser: ArgumentParser) -> None:
    parser.description = (
        "Publish the events that a stopped or crashed collector left in the journal, without serving. `serve` does the "
        "same at its start. Exit 1 if a segment could not be published; it stays in the journal."
    )
    add_config_argument(parser)


def run(arguments: Namespace) -> int:
    """Publish every segment; return 1 if any is left. Raises ConfigError, StartError."""
    config = load(arguments.config)
    set_up_logging(logging.WARNING)
    data_dir = existing(config.storage.data_dir)
    if not (data_dir / JOURNAL).exists():  # its volume may not be mounted, so create nothing under the mount point
        print(_summary(0, 0, 0))
        return 0
    with owned(data_dir) as owner, owner.entered() as root:
        stages = build_stages(config, SystemClock(), root=root)
        try:
            stages.writer.prepare()
            segments = stages.store.left_over()
        except OSError as exc:
            raise StartError(f"data_dir {data_dir}: {exc.strerror}: {data_dir / str(exc.filename)}") from None
        rows = left = 0
        for segment in with_progress(segments, "recovering"):
            try:
                events = sum(part.rows for part in stages.flush_segment(segment))
            except Exception as exc:  # noqa: BLE001 - whatever fails, the segment stays and the others are still published
                left += 1
                print(f"{data_dir / str(segment.path)}: not published, stays in the journal: {exc}", file=sys.stderr)
            else:
                rows += events
                if not sys.stderr.isatty():
                    print(f"{data_dir / str(segment.path)}: {count(events, 'event')}")
        left += stages.store.newer
        if not left:
            stages.answers.resolve()
        stages.answers.close()
    print(_summary(rows, len(segments) + stages.store.newer - left, left))
    return 1 if left else 0


def _summary(rows: int, segments: int, left: int) -> str:
    return f"recovered {count(rows, 'event')} from {count(segments, 'segment')}; {left} left"
