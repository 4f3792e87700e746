"""One request over HTTP: a batch goes out, and its complete answer comes in, within a limit of time and size."""

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp

from collector import VERSION
from collector.cli.importing.answers import Answer, message_of
from collector.cli.importing.sender import GaveUp, Post, Request, Unanswered
from collector.edge.responses import COLLECT_REASON
from collector.events import Reason

# The collector answers 10,000 events in a second. A slow line needs the rest: 4 MiB packed are 0.6 MB.
REQUEST_S = 120.0
CONNECT_S = 10.0

# 10,000 indexes and 100 errors take 0.1 MB.
_LARGEST_ANSWER_BYTES = 4_194_304
_CHUNK_BYTES = 65_536


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine, by its name or address. Nothing is looked up."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@asynccontextmanager
async def connected(base: str, site_id: str, key: str | None, request_s: float = REQUEST_S) -> AsyncIterator[Post]:
    """A function that sends a request to the site of the collector at `base`, with the sender's key if there is one."""
    url = f"{base}/public/{site_id}/batch"
    address = _address_of(base)
    headers = {
        "Content-Type": "application/x-ndjson",
        "Accept": "application/json",
        "User-Agent": f"collector-import/{VERSION}",
    }
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    timeout = aiohttp.ClientTimeout(total=request_s, connect=CONNECT_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def post(request: Request) -> Answer:
            """Send the request and read its answer. Raises Unanswered or GaveUp."""
            own = {"Idempotency-Key": request.key} | ({"Content-Encoding": "gzip"} if request.is_gzip else {})
            try:
                async with session.post(
                    url, data=io.BytesIO(request.body), headers=own, allow_redirects=False
                ) as response:
                    body = await _body(response)
                    answer = Answer(response.status, {name.lower(): v for name, v in response.headers.items()}, body)
            except aiohttp.ConnectionTimeoutError:
                raise Unanswered(f"no connection to {address} within {min(CONNECT_S, request_s):g} s") from None
            except TimeoutError:
                raise Unanswered(f"no answer from {address} within {request_s:g} s") from None
            except aiohttp.ClientSSLError as exc:  # a certificate that is not valid, or a server without TLS
                raise GaveUp(f"no secure connection: {exc}") from None
            except (aiohttp.InvalidURL, UnicodeError):  # a label of the host is empty or longer than 63 characters
                raise GaveUp(f"--url: has a host that cannot be looked up: {urlsplit(url).hostname}") from None
            except aiohttp.ClientError as exc:
                raise Unanswered(f"no answer from {address}: {_reason(exc)}") from None
            if answer.status == HTTPStatus.NOT_FOUND:
                if answer.headers.get(COLLECT_REASON.lower()) == Reason.UNKNOWN_SITE.value:
                    raise GaveUp(f"no site {site_id} at {base}")
                raise GaveUp(f"no collector at {base}: {url}: {message_of(answer)}")
            return answer

        yield post


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body; of a longer one than any collector sends, the beginning."""
    chunks: list[bytes] = []
    left = _LARGEST_ANSWER_BYTES
    while left > 0 and (chunk := await response.content.read(_CHUNK_BYTES)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _address_of(base: str) -> str:
    """The host and port of a URL: "collector.example:443"."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(exc: aiohttp.ClientError) -> str:
    """Why there is no answer, in the system's words where it has some. Connection errors have them in `os_error`."""
    error = getattr(exc, "os_error", exc)
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
