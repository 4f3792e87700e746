"""Refusals for which the content of an event does not matter."""

from collector.events import Reason, Refused

RETRY_STORING_S = 5


def unavailable() -> Refused:
    """The refusal when there is no room for an event at the moment."""
    return Refused(Reason.UNAVAILABLE, "Collector temporarily unavailable", retry_after_s=RETRY_STORING_S)


def late_body() -> Refused:
    return Refused(Reason.TIMEOUT, "Body was not received in time")


def too_large(max_bytes: int) -> Refused:
    return Refused(Reason.TOO_LARGE, f"Body is larger than {max_bytes} bytes")
