"""Requests as a proxy forwards them: seeded, complete, and no two alike.

A request has the head of a browser, the client's address in `X-Forwarded-For`, and a body from bench/sample.py. The
proportions (browsers, beacon or fetch, IPv6) are plausible, not measured. Host, path and protocol are the same for
every event of a site, as in production.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bench.sample import bodies

# The default rate limit allows each client a burst of 1,200 requests and 1,200 a minute. So 20,000 clients can send
# 400,000 requests a second, and none of these is rejected.
CLIENTS = 20_000
USER_AGENTS = 400
SUBDOMAINS = 200
COUNT = 30_000  # too many for a processor's cache

_LANGUAGES = ("en-US,en;q=0.9", "fr-FR,fr;q=0.9,en;q=0.8", "de-DE,de;q=0.9,en-US;q=0.7,en;q=0.6", "ja,en;q=0.5")
_PAGES = ("/", "/pricing", "/docs/getting-started", "/products/1742", "/blog/2026/05/a-longer-title-of-a-post")


def site_name(number: int) -> str:
    """Return the id of a site by its number, from 0."""
    return f"site-{number}"


@dataclass(frozen=True, slots=True)
class Client:
    """A client: its address, and the headers that its browser adds to every request."""

    address: str
    user_agent: str
    headers: tuple[str, ...]


def requests(count: int, sites: int = 1, size_bytes: int = 0, seed: int = 1) -> Iterator[bytes]:
    """Yield complete requests for `sites` sites, with bodies of about `size_bytes` (0: from 700 to 1,000)."""
    source = random.Random(f"requests {seed}")
    agents = [_browser(source) for _ in range(USER_AGENTS)]
    clients = [_client(source, *source.choice(agents)) for _ in range(min(CLIENTS, max(count, 1)))]
    # Half of the requests go to every site in turn; the other half mostly to a few popular ones.
    weights = [1 / (number + 1) for number in range(sites)] if sites > 1 else [1.0]
    popular = source.choices(range(sites), weights, k=count)
    for number, body in enumerate(bodies(count, seed, size_bytes)):
        site = number // 2 % sites if number % 2 else popular[number]
        yield _request(source, source.choice(clients), site, body)


def write_requests(path: Path, count: int, sites: int = 1, size_bytes: int = 0, seed: int = 1) -> int:
    """Write requests to a file, each after its decimal length and a newline. Returns the mean body size in bytes."""
    data, mean_bytes = _file_of(count, sites, size_bytes, seed)
    path.write_bytes(data)
    return mean_bytes


@lru_cache(maxsize=1)  # a search reuses the same 40 MB, which take seconds to generate
def _file_of(count: int, sites: int, size_bytes: int, seed: int) -> tuple[bytes, int]:
    made = list(requests(count, sites, size_bytes, seed))
    body_bytes = sum(len(request) - request.index(b"\r\n\r\n") - 4 for request in made)
    return framed(made), round(body_bytes / count)


def framed(made: Iterable[bytes]) -> bytes:
    """Encode requests in the format of `write_requests`."""
    return b"".join([b"%d\n%s" % (len(request), request) for request in made])


def read_requests(path: Path) -> list[bytes]:
    """Read the requests of a file that `write_requests` wrote."""
    data = path.read_bytes()
    found, at = [], 0
    while at < len(data):
        start = data.index(b"\n", at) + 1
        at = start + int(data[at:start])
        found.append(data[start:at])
    return found


def body(request: bytes) -> bytes:
    """Return the body of a request."""
    return request.partition(b"\r\n\r\n")[2]


def header(request: bytes, name: bytes) -> str:
    """Return the value of a header that the request has once."""
    start = request.index(b"\r\n" + name + b": ") + len(name) + 4
    return request[start : request.index(b"\r\n", start)].decode()


def _browser(source: random.Random) -> tuple[str, tuple[str, ...]]:
    """Return a user agent and the headers specific to its browser."""
    version = source.randrange(100, 150)
    encoding = "Accept-Encoding: gzip, deflate, br" + source.choice((", zstd", ""))
    kind = source.random()
    if kind < 0.65:
        system, platform = source.choice(
            (
                ("Windows NT 10.0; Win64; x64", "Windows"),
                ("X11; Linux x86_64", "Linux"),
                ("Macintosh; Intel Mac OS X 10_15_7", "macOS"),
                (f"Linux; Android {source.randrange(10, 16)}; K", "Android"),
            )
        )
        mobile = "?1" if platform == "Android" else "?0"
        agent = (
            f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0."
            f"{source.randrange(4000, 7000)}.{source.randrange(200)}{' Mobile' * (platform == 'Android')} Safari/537.36"
        )
        brands = f'"Chromium";v="{version}", "Not)A;Brand";v="{source.choice((8, 24, 99))}"'
        hints = (f'sec-ch-ua-platform: "{platform}"', f"sec-ch-ua: {brands}", f"sec-ch-ua-mobile: {mobile}")
        return agent, (*hints, encoding)
    if kind < 0.85:
        system = f"iPhone; CPU iPhone OS {source.randrange(14, 20)}_{source.randrange(7)} like Mac OS X"
        return (
            f"Mozilla/5.0 ({system}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{source.randrange(14, 20)}."
            f"{source.randrange(7)} Mobile/15E148 Safari/604.1",
            (encoding,),
        )
    system = source.choice(("Windows NT 10.0; Win64; x64", "X11; Ubuntu; Linux x86_64", "Android 14; Mobile"))
    return f"Mozilla/5.0 ({system}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0", (encoding,)


def _client(source: random.Random, user_agent: str, headers: tuple[str, ...]) -> Client:
    if source.random() < 0.3:  # its own /64 in 2a00::/12, as providers assign them
        address = str(IPv6Address(0x2A00 << 112 | source.getrandbits(52) << 64 | source.getrandbits(64)))
    else:
        address = str(IPv4Address(0x50000000 + source.getrandbits(28)))
    return Client(address, user_agent, (*headers, f"Accept-Language: {source.choice(_LANGUAGES)}"))


def _request(source: random.Random, client: Client, site: int, body: bytes) -> bytes:
    name = site_name(site)
    host = "www" if source.random() < 0.7 else f"shop-{source.randrange(SUBDOMAINS)}"
    origin = f"https://{host}.{name}.example"
    beacon = source.random() < 0.7
    referer = f"{origin}/" if source.random() < 0.6 else f"{origin}{source.choice(_PAGES)}"
    lines = (
        f"POST /public/{name}/analytics/collect HTTP/1.1",
        "Host: collect.example.com",
        f"X-Forwarded-For: {client.address}",
        "X-Forwarded-Proto: https",
        f"Content-Length: {len(body)}",
        f"User-Agent: {client.user_agent}",
        *client.headers,
        f"Content-Type: {'text/plain;charset=UTF-8' if beacon else 'application/json'}",
        "Accept: */*",
        f"Origin: {origin}",
        "Sec-Fetch-Site: cross-site",
        f"Sec-Fetch-Mode: {'no-cors' if beacon else 'cors'}",
        "Sec-Fetch-Dest: empty",
        f"Referer: {referer}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body
