"""Opt-outs: the headers by which a browser says that its user is not to be tracked.

`Sec-GPC: 1` is Global Privacy Control, `DNT: 1` is Do Not Track. Any other value says nothing.
"""

from collector.edge.request import Request
from collector.events import Ignored, Reason


def not_opted_out(request: Request) -> Ignored | None:
    site = request.site
    if not (site.respects_gpc or site.respects_dnt):
        return None
    if (site.respects_gpc and _is_set(request, "sec-gpc")) or (site.respects_dnt and _is_set(request, "dnt")):
        return Ignored(Reason.OPTED_OUT, "Client has opted out of tracking")
    return None


def _is_set(request: Request, name: str) -> bool:
    value = request.headers.get(name)
    if value is None:
        return False
    return value == "1" or "1" in [each.strip(" \t") for each in value.split(",")]
