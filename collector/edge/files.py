"""Files that the public port serves, by path: read at the start, so that no request can name another one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aiohttp import hdrs
from multidict import CIMultiDict

from collector.edge.negotiation import IDENTITY, best_encoding, has_already
from collector.edge.responses import SERVER, TEXT, Response


@dataclass(frozen=True, slots=True)
class File:
    """A file: the headers that all its responses have, and its content in each encoding."""

    headers: tuple[tuple[str, str], ...]
    content: Mapping[str, bytes]  # by encoding, best first; identity is always there


@dataclass(frozen=True, slots=True)
class Redirect:
    """A path that leads to another, which is relative to it."""

    to: str


class Files:
    """The table of files. Its responses are made once; aiohttp copies their headers."""

    def __init__(self, table: Mapping[str, File | Redirect] = MappingProxyType({})) -> None:
        self._redirects = {path: _redirect(file) for path, file in table.items() if isinstance(file, Redirect)}
        self._files = {path: _Answers(file) for path, file in table.items() if isinstance(file, File)}

    def respond(self, path: str, accepted: str | None, if_none_match: str | None) -> Response:
        """The response to GET and HEAD. `accepted` and `if_none_match` are the headers of the request."""
        redirect = self._redirects.get(path)
        if redirect is not None:
            return redirect
        return self._files[path].choose(accepted, if_none_match)


class _Answers:
    """The responses with a file: two for each encoding."""

    def __init__(self, file: File) -> None:
        self._encodings = [encoding for encoding in file.content if encoding != IDENTITY]
        varies = [(hdrs.VARY, hdrs.ACCEPT_ENCODING)] if self._encodings else []
        self._by_encoding: dict[str, tuple[str, Response, Response]] = {}
        for encoding, body in file.content.items():
            tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'  # strong, so each encoding has its own
            common = [(hdrs.SERVER, SERVER), *file.headers, *varies, (hdrs.ETAG, tag)]
            encoded = [] if encoding == IDENTITY else [(hdrs.CONTENT_ENCODING, encoding)]
            unchanged = [(name, value) for name, value in common if name != hdrs.CONTENT_TYPE]
            self._by_encoding[encoding] = (
                tag,
                Response(200, CIMultiDict([*common, *encoded]), body),
                Response(304, CIMultiDict(unchanged)),
            )

    def choose(self, accepted: str | None, if_none_match: str | None) -> Response:
        tag, whole, unchanged = self._by_encoding[best_encoding(accepted, self._encodings)]
        return unchanged if has_already(if_none_match, tag) else whole


def _redirect(redirect: Redirect) -> Response:
    headers = {
        hdrs.SERVER: SERVER,
        hdrs.LOCATION: redirect.to,
        hdrs.CONTENT_TYPE: TEXT,
        hdrs.CACHE_CONTROL: "no-cache",  # else browsers would remember it for longer than it is there
    }
    return Response(308, CIMultiDict(headers))
