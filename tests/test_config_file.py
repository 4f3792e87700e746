"""Configuration files: what is accepted, and how errors read."""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from collector.config import Config
from collector.config_file import ConfigError, load
from tests import configs
from tests.configs import SITE

Load = Callable[..., Config]

DEFAULTS: dict[str, dict[str, Any]] = {
    "server": {
        "host": "127.0.0.1",
        "port": 8080,
        "unix_socket": "",
        "unix_socket_mode": "0660",
        "workers": 1,
        "trusted_proxies": (),
        "client_ip_header": "X-Forwarded-For",
        "max_body_bytes": 65536,
        "max_batch_bytes": 4194304,
        "body_timeout_s": 10,
        "max_connections_per_client": 1000,
        "keepalive_timeout_s": 75,
        "fast_path": True,
        "shutdown_timeout_s": 15,
    },
    "admin": {"host": "127.0.0.1", "port": 9090},
    "storage": {
        "data_dir": Path("data"),
        "flush_interval_s": 60,
        "segment_max_bytes": 67108864,
        "journal_max_bytes": 4294967296,
        "durability": "fsync",
        "compression": "zstd",
        "min_free_bytes": 268435456,
        "partition_by": ("site", "date"),
        "rejected_max_bytes": 268435456,
        "retention_days": 0,
    },
    "rate_limit": {"requests_per_minute": 1200, "burst": 1200, "ipv6_prefix": 64},
    "privacy": {"client_ip": "none"},
    "tracker": {"script_path": "t.js", "collect_path": "e", "demo_dir": ""},
    "sites": {
        "demo": {
            "tracking": True,
            "excluded_ips": (),
            "excluded_paths": (),
            "allowed_origins": (),
            "allow_localhost": False,
            "strict": False,
            "keys": (),
            "bots": "flag",
            "respect_gpc": False,
            "respect_dnt": False,
        }
    },
}


@pytest.fixture
def read(tmp_path: Path) -> Load:
    return partial(configs.read, tmp_path)


@pytest.fixture
def errors(tmp_path: Path) -> Callable[..., list[str]]:
    return partial(configs.errors_of, tmp_path)


def test_default_of_every_setting(read: Load) -> None:
    assert DEFAULTS == read().model_dump()


def test_every_key_can_be_set(read: Load) -> None:
    settings = read(
        """
        [server]
        host = "0.0.0.0"
        port = 0
        workers = 1
        unix_socket = "run/collector.sock"
        unix_socket_mode = "666"
        trusted_proxies = ["10.0.0.0/8", "::1", "unix"]
        client_ip_header = "forwarded"
        max_body_bytes = 1
        max_batch_bytes = 2
        body_timeout_s = 0.5
        max_connections_per_client = 20
        keepalive_timeout_s = 1
        fast_path = false
        shutdown_timeout_s = 2
        [admin]
        host = "::1"
        port = 65535
        [storage]
        data_dir = "/srv/events"
        flush_interval_s = 0.1
        segment_max_bytes = 65536
        journal_max_bytes = 65536
        durability = "memory"
        compression = "none"
        min_free_bytes = 0
        partition_by = ["date"]
        rejected_max_bytes = 0
        retention_days = 7
        [rate_limit]
        requests_per_minute = 0
        burst = 1
        ipv6_prefix = 48
        [privacy]
        client_ip = "hash"
        [tracker]
        script_path = "A-z_9.~.js"
        collect_path = "in"
        demo_dir = "/srv/demo"
        [sites.A-z_9]
        tracking = false
        excluded_ips = ["192.0.2.7", "2001:db8::/32"]
        excluded_paths = ["/admin/*"]
        allowed_origins = ["HTTPS://Example.com:443/", "*.Example.com", "null"]
        allow_localhost = true
        strict = true
        keys = ["sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"]
        bots = "drop"
        respect_gpc = true
        respect_dnt = true
        """
    ).model_dump()
    assert {
        "server": {
            "host": "0.0.0.0",
            "port": 0,
            "workers": 1,
            "unix_socket": "run/collector.sock",
            "unix_socket_mode": "666",
            "trusted_proxies": (ip_network("10.0.0.0/8"), ip_network("::1/128"), "unix"),
            "client_ip_header": "Forwarded",
            "max_body_bytes": 1,
            "max_batch_bytes": 2,
            "body_timeout_s": 0.5,
            "max_connections_per_client": 20,
            "keepalive_timeout_s": 1,
            "fast_path": False,
            "shutdown_timeout_s": 2,
        },
        "admin": {"host": "::1", "port": 65535},
        "storage": {
            "data_dir": Path("/srv/events"),
            "flush_interval_s": 0.1,
            "segment_max_bytes": 65536,
            "journal_max_bytes": 65536,
            "durability": "memory",
            "compression": "none",
            "min_free_bytes": 0,
            "partition_by": ("date",),
            "rejected_max_bytes": 0,
            "retention_days": 7,
        },
        "rate_limit": {"requests_per_minute": 0, "burst": 1, "ipv6_prefix": 48},
        "privacy": {"client_ip": "hash"},
        "tracker": {"script_path": "A-z_9.~.js", "collect_path": "in", "demo_dir": "/srv/demo"},
        "sites": {
            "A-z_9": {
                "tracking": False,
                "excluded_ips": (ip_network("192.0.2.7/32"), ip_network("2001:db8::/32")),
                "excluded_paths": ("/admin/*",),
                "allowed_origins": ("https://example.com", "*.example.com", "null"),
                "allow_localhost": True,
                "strict": True,
                "keys": ("sha256:" + 4 * "0123456789abcdef",),
                "bots": "drop",
                "respect_gpc": True,
                "respect_dnt": True,
            }
        },
    } == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # Unknown keys say what would be right.
        (SITE + "[server]\nprot = 1", "server.prot: unknown key; did you mean port?"),
        (SITE + "[server]\nzzz = 1", "server.zzz: unknown key; known keys are host, port, unix_socket"),
        (SITE + "[serverr]\nport = 1", "serverr: unknown key; did you mean server?"),
        (SITE + "trackin = true", "sites.demo.trackin: unknown key; did you mean tracking?"),
        ("port = 1\n" + SITE, "port: unknown key; "),
        (SITE + "[SERVER]\nport = 1", "SERVER: unknown key; did you mean server?"),
        (SITE + "[server]\nPORT = 1", "server.PORT: unknown key; did you mean port?"),
        (SITE + "[shop]\ntracking = false", "tracker, sites; a site is written [sites.shop]"),
        (SITE + "[site.shop]", "site: unknown key; did you mean sites?"),
        # Wrong types, and what is right.
        (SITE + '[server]\nport = "8080"', 'server.port: should be an integer; got "8080"'),
        (SITE + "[server]\nport = true", "server.port: should be an integer; got true"),
        (SITE + "[server]\nport = 80.5", "server.port: should be an integer; got 80.5"),
        (SITE + "[server]\nhost = 1", "server.host: should be a string; got 1"),
        (SITE + '[server]\nbody_timeout_s = "10"', "server.body_timeout_s: should be a number"),
        (SITE + "[server]\nbody_timeout_s = nan", "server.body_timeout_s: should be a finite number"),
        (SITE + "[server]\nkeepalive_timeout_s = inf", "server.keepalive_timeout_s: should be a finite number"),
        (SITE + '[server]\ntrusted_proxies = "::1"', 'trusted_proxies: should be a list, written ["::1"]; got "::1"'),
        (SITE + 'strict = "False"', 'sites.demo.strict: should be a boolean, written false; got "False"'),
        *(
            (f"{SITE}[storage]\ndata_dir = {value}", "storage.data_dir: should be the path of a folder")
            for value in ("1", '""', r'"\u0000"')
        ),
        (SITE + "tracking = 1", "sites.demo.tracking: should be a boolean; got 1"),
        (SITE + 'strict = "no"', 'sites.demo.strict: should be a boolean; got "no"'),
        (SITE + "excluded_paths = [1]", "sites.demo.excluded_paths.0: should be a string"),
        ("server = 1\n" + SITE, "server: should be a table; got 1"),
        ("sites = 1", "sites: should be a table; got 1; a site is written [sites.demo]"),
        ('[[sites]]\nid = "demo"', "; a site is written [sites.demo]"),
        ("[sites]\ntracking = true", "tracking is a site setting and belongs below a line such as [sites.demo]"),
        ("[sites]\ndemo = 1", "sites.demo: should be a table; got 1"),
        # Values out of bounds.
        (SITE + "[server]\nport = 65536", "server.port: should be less than or equal to 65535; got 65536"),
        (SITE + "[admin]\nport = -1", "admin.port: should be greater than or equal to 0; got -1"),
        (SITE + "[server]\nmax_body_bytes = 0", "server.max_body_bytes: "),
        (
            SITE + "[server]\nmax_batch_bytes = 16777217",
            "server.max_batch_bytes: should be less than or ",
        ),
        (SITE + "[server]\nshutdown_timeout_s = 0", "server.shutdown_timeout_s: should be greater than 0"),
        (SITE + "[storage]\nflush_interval_s = 0", "storage.flush_interval_s: should be greater than 0"),
        (SITE + '[storage]\ncompression = "rar"', "storage.compression: should be 'zstd', "),
        (SITE + "[storage]\nmin_free_bytes = -1", "storage.min_free_bytes: "),
        (SITE + "[storage]\nrejected_max_bytes = -1", "storage.rejected_max_bytes: "),
        (SITE + "[storage]\nretention_days = -1", "storage.retention_days: "),
        (
            SITE + "[storage]\njournal_max_bytes = 65536",
            "storage.journal_max_bytes: should be at least segment_max_bytes, 67108864",
        ),
        (
            SITE + '[storage]\npartition_by = ["date", "site"]',
            'storage.partition_by: should be ["site", "date"] or ["date"]',
        ),
        (SITE + '[storage]\npartition_by = ["hour"]', "storage.partition_by: should be "),
        (SITE + "[storage]\npartition_by = []", "storage.partition_by: should be "),
        (SITE + "[rate_limit]\nrequests_per_minute = -1", "rate_limit.requests_per_minute: "),
        (SITE + "[rate_limit]\nburst = 0", "rate_limit.burst: "),
        (SITE + "[rate_limit]\nipv6_prefix = 129", "rate_limit.ipv6_prefix: "),
        (SITE + '[privacy]\nclient_ip = "all"', "privacy.client_ip: should be 'none', 'truncate', 'hash' or 'full'"),
        (SITE + '[storage]\ndurability = "disk"', "storage.durability: should be 'fsync', 'write' or 'memory'"),
        (SITE + "[server]\nworkers = 0", 'server.workers: should be a number from 1 to 256, or "auto"; got 0'),
        (SITE + "[server]\nworkers = 257", 'server.workers: should be a number from 1 to 256, or "auto"; got 257'),
        (SITE + "[server]\nworkers = true", "server.workers: should be a number from 1 to 256"),
        (SITE + '[server]\nworkers = "all"', "server.workers: should be a number from 1 to 256"),
        # Site ids become directory names.
        ('[sites."a b"]', "sites.a b: a site id should be 1 to 64 characters out of A-Z a-z 0-9 _ -"),
        ('[sites."../x"]', "sites.../x: a site id should be"),
        ('[sites.""]', "sites.: a site id should be"),
        ('[sites."é"]', "sites.é: a site id should be"),
        ('[sites."demo\\n"]', "a site id should be"),
        (f"[sites.{'x' * 65}]", "a site id should be"),
        *(
            (text, f'{key}: unknown key; a site id cannot contain dots: "{name}" should be [sites.{right}]')
            for text, key, name, right in (
                ("[sites.example.com]", "sites.example.com", "example.com", "example-com"),
                ("[sites.www.example.com]", "sites.www.example", "www.example.com", "www-example-com"),
                ("[sites.a.b.c.d]\ntracking = true", "sites.a.b", "a.b.c.d", "a-b-c-d"),
                ("[sites]\nwww.example.com.tracking = true", "sites.www.example", "www.example.com", "www-example-com"),
                ("[sites.demo]\n[sites.demo.de]", "sites.demo.de", "demo.de", "demo-de"),
                ("[sites.'x'.'y z']", "sites.x.y z", "x.y z", "x-y-z"),
            )
        ),
        # Networks.
        (SITE + 'excluded_ips = ["10.0.0.1/8"]', "sites.demo.excluded_ips.0: has bits set to the right of its prefix"),
        (SITE + 'excluded_ips = ["::1", "x"]', "sites.demo.excluded_ips.1: should be an address or a network"),
        (SITE + "excluded_ips = [10]", "sites.demo.excluded_ips.0: should be an address or a network"),
        (SITE + '[server]\ntrusted_proxies = ["10/8"]', "server.trusted_proxies.0: should be an address or a network"),
        *(
            (
                f'{SITE}[server]\ntrusted_proxies = ["::1", "{proxy}"]',
                'server.trusted_proxies.1: should be an address, a network, or "unix" (peers on the Unix socket); '
                f'got "{proxy}"',
            )
            for proxy in ("Unix", "unix:/run/collector.sock", "localhost")
        ),
        *(
            (
                f'{SITE}[server]\nclient_ip_header = "{name}"',
                "server.client_ip_header: should be one of X-Forwarded-For, Forwarded, X-Real-IP, CF-Connecting-IP, "
                f'True-Client-IP; got "{name}"',
            )
            for name in ("X-Forwarded", "", " Forwarded", "X_Real_IP")
        ),
        # No site at all.
        ("", "sites: missing; at least one site is needed, for example [sites.demo]"),
        ("[sites]", "sites: empty; at least one site is needed, for example [sites.demo]"),
        # Not TOML.
        ("[sites", "is not TOML"),
        (SITE + "tracking = yes", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        *(
            (SITE.encode(encoding), "is not TOML: it is UTF-16; it should be saved as UTF-8")
            for encoding in ("utf-16", "utf-16-le", "utf-16-be")
        ),
        (f"{SITE}# Gr\xfc\xdfe\n".encode("latin-1"), "is not TOML: line 2 is not UTF-8"),
        (SITE + "\ufeffstrict = true", "is not TOML"),
        pytest.param(f"[server.port{'.a' * 5_000}]\n{SITE}", "server.port: should be an integer", id="deep-setting"),
        pytest.param(
            f"[sites.a{'.a' * 5_000}]", "sites.a.a: unknown key; a site id cannot contain dots: ", id="deep-site"
        ),
        pytest.param(f"x = {'[' * 10_000}", "is not TOML", id="nested-10000"),
        pytest.param(f"{SITE}[server]\nport = {'1' * 5_000}", "is not TOML: ", id="5000-digits"),
    ],
)
def test_error_names_the_key_and_says_what_would_be_right(
    errors: Callable[..., list[str]], tmp_path: Path, text: str | bytes, message: str
) -> None:
    (error,) = errors(text)
    assert error.startswith(f"{tmp_path / 'collector.toml'}: ")
    assert message in error


@pytest.mark.parametrize(
    "origin",
    [
        "example.com",
        "https://",
        "*",
        "*.",
        "*..com",
        "*.example.com:80",
        "https://*.example.com",
        "https://example.com/page",
        "https://example.com?q",
        "https://example.com#f",
        "https://user@example.com",
        "https://example.com:x",
        "https://example.com:65536",
        "Null",
        "",
    ],
)
def test_bad_origin_is_an_error(errors: Callable[..., list[str]], origin: str) -> None:
    (error,) = errors(f'{SITE}allowed_origins = ["null", "{origin}"]')
    assert error.endswith(
        'sites.demo.allowed_origins.1: should be "https://host", "https://host:port", "*.host" or "null"; '
        f'got "{origin}"'
    )


@pytest.mark.parametrize("text", [SITE, f"\r\n{SITE}", "# \u00fc\n[sites.demo]"])
def test_byte_order_mark_is_skipped(read: Load, text: str) -> None:
    """Some editors put one before UTF-8."""
    assert DEFAULTS == read(b"\xef\xbb\xbf" + text.encode()).model_dump()


def test_all_errors_are_reported_at_once(errors: Callable[..., list[str]]) -> None:
    found = errors(
        """
        [server]
        prot = 1
        host = 2
        [storage]
        compression = "rar"
        durability = "disk"
        [zzz]
        [sites.demo]
        excluded_ips = ["x", "y"]
        [sites."a b"]
        """,
        {"COLLECTOR__ADMIN__PORT": "x", "COLLECTOR__NO__SUCH": "1"},
    )
    expected = {
        "server.prot",
        "server.host",
        "storage.compression",
        "storage.durability",
        "zzz",
        "sites.demo.excluded_ips.0",
        "sites.demo.excluded_ips.1",
        "sites.a b",
        "admin.port",
        "names no setting; it should be COLLECTOR__<SECTION>__<KEY>",
    }
    assert expected == {error.split(": ")[1] for error in found}
    assert len(expected) == len(found)


def test_errors_of_keys_that_must_fit_together_are_reported_at_once(errors: Callable[..., list[str]]) -> None:
    text = "\n".join(errors(f"{SITE}[storage]\npartition_by = []\njournal_max_bytes = 65536"))
    assert [True, True] == [f"storage.{key}: should be" in text for key in ("partition_by", "journal_max_bytes")]


def test_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert [f"{path}: cannot be read: {why}"] == caught.value.errors


def test_file_that_is_too_large_is_an_error(
    errors: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.config_file.LARGEST_BYTES", 1 << 20)
    text = SITE + "#" * ((1 << 20) - len(SITE))
    assert DEFAULTS == configs.read(tmp_path, text).model_dump()
    assert [f"{tmp_path / 'collector.toml'}: is larger than 1 MB, the limit for a configuration"] == errors(text + "#")
