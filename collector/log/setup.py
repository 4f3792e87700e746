"""The log: one happening is one line on stderr, or one entry of the systemd journal.

Where stderr is the journal's, records go to its socket as fields (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): the
level as PRIORITY, the worker, the place in the code, and the traceback inside the one MESSAGE. Lines on stderr with a
priority in front (`<3>...`) would do for levels; but there every newline begins another entry, and a write waits for a
journal that is slow, in the event loop. A datagram is one entry whatever is in it, and never waits. Such lines are what
is left where the socket is not there.

What clients send is in some records. Nothing of it can end a line or speak to a terminal: what is not printable is
escaped.
"""

import atexit
import logging
import os
import socket
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType

from collector.log.rate_limit import RateLimitFilter

JOURNAL_SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "collector"

# A datagram takes 200 KB with the kernel's default buffers; 4 bytes a character at most.
MAX_CHARACTERS = 32_768

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}

log = logging.getLogger(__name__)


def set_up_logging(level: int = logging.INFO, worker: int | None = None) -> None:
    """Send everything from `level` up to the log; `worker` tells processes that share it from one another."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if is_journal(2):
        handler.setFormatter(PrefixedLines(worker))
        if os.path.exists(JOURNAL_SOCKET):
            handler = JournalHandler(worker, handler, JOURNAL_SOCKET)
    else:
        handler.setFormatter(Lines(worker))
    rate_limit = RateLimitFilter(handler.handle)
    handler.addFilter(rate_limit)
    atexit.register(rate_limit.report)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    sys.excepthook = _log_crash


def is_journal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd connected it to the journal: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        stat = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def complain(words: str) -> None:
    """Tell why a command ends, on one line of stderr, with or without a log."""
    print(f"{'<3>' if is_journal(2) else ''}{IDENTIFIER}: {escape(words)}", file=sys.stderr)


def escape(text: str) -> str:
    """The text on one line, with nothing in it that a terminal obeys."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def priority(level: int) -> int:
    """The syslog priority of a level."""
    return next((number for least, number in _PRIORITIES.items() if level >= least), 7)


class Lines(logging.Formatter):
    """A line for a person or a file: time, level, worker, module, message. A traceback follows, indented."""

    def __init__(self, worker: int | None = None) -> None:
        who = "" if worker is None else f"[worker {worker}] "
        super().__init__(f"%(asctime)s %(levelname)s {who}%(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _cut(escape(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        return "\n".join("    " + line for line in _trace(ei))


class PrefixedLines(logging.Formatter):
    """A line with its priority, for a journal that reads stderr; it has the time, and a traceback is on the line."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._who = "" if worker is None else f"[worker {worker}] "

    def format(self, record: logging.LogRecord) -> str:
        words = [escape(record.getMessage()), *(_trace(record.exc_info) if record.exc_info else ())]
        return f"<{priority(record.levelno)}>{self._who}{record.name}: {_cut(' | '.join(words))}"


class JournalHandler(logging.Handler):
    """Entries of the systemd journal. Never waits: what its socket does not take is counted in the next entry."""

    def __init__(self, worker: int | None, without_journal: logging.Handler, path: str) -> None:
        super().__init__()
        self._worker = worker
        self._without_journal = without_journal
        self._path = path
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.sendto(self._entry(record), self._path)  # by name: the journal may be another since
            self._lost = 0
        except BlockingIOError:
            self._lost += 1
        except OSError:
            self._without_journal.handle(record)
        except Exception:  # noqa: BLE001 - a record that cannot be formatted; logging says where it is from
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _entry(self, record: logging.LogRecord) -> bytes:
        words = escape(record.getMessage())
        if self._lost:
            words += f" ({self._lost} before it were lost: the journal did not take them)"
        fields: dict[str, object] = {
            "PRIORITY": priority(record.levelno),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName or "",
        }
        if self._worker is not None:
            fields["WORKER"] = self._worker
        if hasattr(record, "left_out"):
            fields["LEFT_OUT"] = record.left_out
        if record.exc_info and record.exc_info[0]:
            fields["EXCEPTION"] = record.exc_info[0].__name__
            words = "\n".join([words, *_trace(record.exc_info)])
        fields["MESSAGE"] = _cut(words)
        return b"".join(_field(name, str(value)) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    """With its length, so that nothing in it can begin another field."""
    data = value.encode(errors="backslashreplace")
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


def _trace(exc_info: object) -> list[str]:
    """The lines of a traceback."""
    match exc_info:
        case (_, BaseException() as exc, _):
            text = "".join(traceback.format_exception(exc))
            return [escape(line) for line in _cut(text).split("\n") if line]
    return []


def _cut(text: str) -> str:
    """Both ends of it, if it is long: a traceback ends with what happened."""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]} [...] {text[-half:]}"


def _log_crash(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """What Python would print in a dozen lines."""
    if isinstance(exc, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, trace)
    else:
        log.critical("the process ends: %s", kind.__name__, exc_info=(kind, exc, trace))
