"""The log: each record is one line on stderr, or one entry in the systemd journal.

If stderr goes to the systemd journal, records go to its socket as fields instead
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): the level as PRIORITY, the worker, the place in the code, and one MESSAGE
that includes the traceback. A datagram is one entry, whatever it contains, and sending it never blocks.

Without that socket, records are lines on stderr with a priority in front (`<3>...`). These are second best: a newline
would start another entry, and a slow journal would block the event loop.

Some records contain data from clients. Unprintable characters are escaped, so that data can neither end a line nor
control a terminal.
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

# A datagram can hold 200 KB with the kernel's default buffers, and a character takes up to 4 bytes.
MAX_CHARACTERS = 32_768

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}

log = logging.getLogger(__name__)


def set_up_logging(level: int = logging.INFO, worker: int | None = None) -> None:
    """Log records of `level` and above. `worker` is a worker's number, to identify its records in a shared log."""
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
    """Whether systemd connected it to the journal: JOURNAL_STREAM holds its device and inode (systemd.exec(5))."""
    try:
        stat = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def complain(message: str) -> None:
    """Print why a command fails, as one line on stderr. Works before and after `set_up_logging`."""
    print(f"{'<3>' if is_journal(2) else ''}{IDENTIFIER}: {escape(message)}", file=sys.stderr)


def escape(text: str) -> str:
    """The text on one line, with unprintable characters escaped."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def priority(level: int) -> int:
    """The syslog priority of a level."""
    return next((number for least, number in _PRIORITIES.items() if level >= least), 7)


class Lines(logging.Formatter):
    """Lines for a terminal or a file: time, level, worker, logger, message. A traceback follows, indented."""

    def __init__(self, worker: int | None = None) -> None:
        who = "" if worker is None else f"[worker {worker}] "
        super().__init__(f"%(asctime)s %(levelname)s {who}%(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _cut(escape(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        return "\n".join("    " + line for line in _trace(ei))


class PrefixedLines(logging.Formatter):
    """Lines with a priority, for a systemd journal that reads stderr. It adds the time. Tracebacks stay on the line."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__()
        self._who = "" if worker is None else f"[worker {worker}] "

    def format(self, record: logging.LogRecord) -> str:
        texts = [escape(record.getMessage()), *(_trace(record.exc_info) if record.exc_info else ())]
        return f"<{priority(record.levelno)}>{self._who}{record.name}: {_cut(' | '.join(texts))}"


class JournalHandler(logging.Handler):
    """Sends records to the systemd journal. Never blocks: if the socket is full, the next entry reports the loss."""

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
            self._socket.sendto(self._entry(record), self._path)  # by path, because the journal may have restarted
            self._lost = 0
        except BlockingIOError:
            self._lost += 1
        except OSError:
            self._without_journal.handle(record)
        except Exception:  # noqa: BLE001 - the record cannot be formatted; logging prints where it is from
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _entry(self, record: logging.LogRecord) -> bytes:
        message = escape(record.getMessage())
        if self._lost:
            message += f" ({self._lost} earlier entries were lost: the systemd journal did not accept them)"
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
            message = "\n".join([message, *_trace(record.exc_info)])
        fields["MESSAGE"] = _cut(message)
        return b"".join(_field(name, str(value)) for name, value in fields.items())


def _field(name: str, value: str) -> bytes:
    """A field with its length, so its value cannot start another field."""
    data = value.encode(errors="backslashreplace")
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


def _trace(exc_info: object) -> list[str]:
    """The escaped lines of a traceback."""
    match exc_info:
        case (_, BaseException() as exc, _):
            text = "".join(traceback.format_exception(exc))
            return [escape(line) for line in _cut(text).split("\n") if line]
    return []


def _cut(text: str) -> str:
    """Cut the middle out of a long text. Both ends matter: a traceback ends with the exception."""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]} [...] {text[-half:]}"


def _log_crash(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """Log an unhandled exception as one record. Python would print a dozen lines."""
    if isinstance(exc, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, trace)
    else:
        log.critical("the process ends: %s", kind.__name__, exc_info=(kind, exc, trace))
