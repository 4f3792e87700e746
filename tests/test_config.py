"""Settings that can only be mistakes. Each is an error that says what would be right."""

from pathlib import Path

import pytest

from collector.config import SiteSettings
from tests.configs import SITE, errors_of, read


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ('should begin with "/" or "*"', ""),
        ('should begin with "/" or "*"', "admin/*"),
        ('should begin with "/" or "*"', " /admin"),
        ('should begin with "/" or "*"', "^/admin"),
        ('should begin with "/" or "*"', "%2Aadmin"),
        ('should begin with "/" or "*"', "www.example.com/admin"),
        ('is a complete URL; should be only its path, "/admin/*"', "https://www.example.com/admin/*"),
        ('is a complete URL; should be only its path, "/admin"', "HTTP://user@example.com:8080/admin?x#y"),
        ('is a complete URL; should be only its path, "/admin"', "*://example.com/admin"),
        ('is a complete URL; should be only its path, "/"', "https://example.com"),
        ('is a complete URL; should be only its path, "/x"', "capacitor://localhost/x"),
        ('has "#", but page_path is compared without its query and fragment', "/#/admin/*"),
        ('has "#", but page_path is compared without its query and fragment', "*#*"),
        ('has "#", but page_path is compared without its query and fragment', "#/admin"),
        ('has "?", but page_path is compared without its query and fragment', "/search?q=*"),
        ('or write "%3F" to match the character itself', "/admin?"),
        ('or write "%23" to match the character itself', "/a#b"),
        *(
            ("matches only paths longer than 1024 characters, the limit of page_path", path)
            for path in (
                "/" + 1_024 * "x",
                "/*" + 1_023 * "x" + "*x",
                "/" + 512 * "%20" + 512 * "x",
                "/" + 342 * "%3F",  # page_path needs the escape too
            )
        ),
    ],
)
def test_excluded_path_that_no_page_can_match_is_an_error(tmp_path: Path, message: str, path: str) -> None:
    (error,) = errors_of(tmp_path, f'{SITE}excluded_paths = ["/good", "{path}"]')
    assert error.startswith(f"{tmp_path / 'collector.toml'}: sites.demo.excluded_paths.1: ")
    assert message in error


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "*",
        "/*",
        "*/edit",
        "/büro/*",
        "/a b/*",
        "/b%C3%BCro%zz",
        "%2Fadmin",
        "/a%3Fb",
        "/%23/admin",
        "//double",
        "/x://y",
        "/" + 1_023 * "x",
        "*" * 9 + 1_024 * "x",
        "/" + 1_023 * "%20",
        "/" + 341 * "%3F",
    ],
)
def test_excluded_path_that_a_page_can_match_is_kept_as_written(tmp_path: Path, path: str) -> None:
    assert {"demo": SiteSettings(excluded_paths=(path,))} == read(tmp_path, f'{SITE}excluded_paths = ["{path}"]').sites


@pytest.mark.parametrize(
    ("message", "origin"),
    [
        *(
            ('should be "https://host", "https://host:port", "*.host" or "null"', origin)
            for origin in ("https://example.com:0", "*.10.0.0.1", "*.example.1", "https://a.example, https://b.example")
        ),
        ('"*.host" or "null", in punycode (xn--), as browsers send it', "https://bücher.example"),
        ('"*.host" or "null", in punycode (xn--), as browsers send it', "*.bücher.example"),
        ('has a host that reads as an IP address, but "10.0.0" is not a valid one', "http://10.0.0"),
        ('has a host that reads as an IP address, but "10.0.0.256" is not a valid one', "http://10.0.0.256:3000"),
        ('has a host that reads as an IP address, but "0x7f.1" is not a valid one', "http://0x7f.1"),
        ('has a host that reads as an IP address, but "[1::2::3]" is not a valid one', "http://[1::2::3]"),
    ],
)
def test_origin_that_no_browser_sends_is_an_error(tmp_path: Path, message: str, origin: str) -> None:
    (error,) = errors_of(tmp_path, f'{SITE}allowed_origins = ["{origin}"]')
    assert "sites.demo.allowed_origins.0: " in error
    assert message in error
    assert error.endswith(f'; got "{origin}"')


@pytest.mark.parametrize(
    ("sent", "listed"),
    [
        ("https://example.com", "HTTPS://Example.com:443/"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:03000"),
        ("http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000"),
        ("http://[2001:db8::a]", "http://[2001:DB8:0::0A]:80"),
        ("http://[::ffff:102:304]", "http://[::ffff:1.2.3.4]"),
        ("https://1.example", "https://1.example"),
        ("https://example.com.", "https://example.com."),
        ("*.example.com", "*.Example.com."),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_origin_is_stored_as_browsers_send_it(tmp_path: Path, sent: str, listed: str) -> None:
    assert (sent,) == read(tmp_path, f'{SITE}allowed_origins = ["{listed}"]').sites["demo"].allowed_origins


@pytest.mark.parametrize(
    ("message", "text"),
    [
        *(
            (f"{section}.host: should be only an address or a host name", f'{SITE}[{section}]\nhost = "{host}"')
            for section in ("server", "admin")
            for host in ("0.0.0.0:8080", "http://localhost", "localhost:80", "[::1]", "*", "::1 ", "a/b", "me@host")
        ),
        *(
            (
                f'{key}.0: is not the address of any client; every IPv{version} address is "{address}/0"',
                f'{text} = ["{address}"]',
            )
            for key, text in (
                ("sites.demo.excluded_ips", f"{SITE}excluded_ips"),
                ("server.trusted_proxies", f"{SITE}[server]\ntrusted_proxies"),
            )
            for version, address in ((4, "0.0.0.0"), (6, "::"))
        ),
        *(
            ("storage.data_dir: should be the path of a folder without ", f'{SITE}[storage]\ndata_dir = "{folder}"')
            for folder in ("~/events", "~", "$HOME/events", "${HOME}/events")
        ),
        *(
            ("storage.data_dir: should be the path of a folder, not a URL", f'{SITE}[storage]\ndata_dir = "{url}"')
            for url in ("file:///srv/events", "s3://bucket/events")
        ),
        ("sites.__HIVE_DEFAULT_PARTITION__: a site id should not be __HIVE", "[sites.__HIVE_DEFAULT_PARTITION__]"),
        ("(it becomes a folder name), such as www-example-com", '[sites."www.example.com"]'),
        ("(it becomes a folder name), such as a-b", '[sites."a / b"]'),
    ],
)
def test_setting_that_can_only_be_a_mistake_is_an_error(tmp_path: Path, message: str, text: str) -> None:
    (error,) = errors_of(tmp_path, text)
    assert message in error


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "fe80::1%eth0", "localhost", "my_host-1.example", "7"])
def test_host_may_be_an_address_or_a_name(tmp_path: Path, host: str) -> None:
    assert host == read(tmp_path, f'{SITE}[server]\nhost = "{host}"').server.host


@pytest.mark.parametrize("site_id", ["__hive_default_partition__", "null", "nan", "true", "007", "-", "x" * 64])
def test_site_id_that_readers_can_read_is_accepted(tmp_path: Path, site_id: str) -> None:
    assert [site_id] == list(read(tmp_path, f"[sites.{site_id}]").sites)


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("wss://www.example.com", 'a web socket sends the origin of its page, "https://host"'),
        ("ws://www.example.com", 'a web socket sends the origin of its page, "http://host"'),
        ("ftp://www.example.com", 'such a page sends "null"'),
        ("file://localhost", 'such a page sends "null"'),
    ],
)
def test_scheme_that_no_origin_has_is_an_error(tmp_path: Path, origin: str, message: str) -> None:
    (error,) = errors_of(tmp_path, f'{SITE}allowed_origins = ["{origin}"]')
    assert f"has a scheme that no origin has; {message}" in error


@pytest.mark.parametrize("key", ["body_timeout_s", "keepalive_timeout_s", "shutdown_timeout_s"])
def test_timeout_longer_than_a_day_is_an_error(tmp_path: Path, key: str) -> None:
    """No clock counts that far: a shutdown ended in a traceback and lost events."""
    (error,) = errors_of(tmp_path, f"[server]\n{key} = 1e300\n{SITE}")
    assert f"server.{key}: should be less than or equal to 86400" in error


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/t.js", "a b", "%65", "é", "a?b", "a.js\\n", 65 * "a"])
@pytest.mark.parametrize("key", ["script_path", "collect_path"])
def test_path_of_the_tracker_is_one_part_of_a_url(tmp_path: Path, key: str, name: str) -> None:
    (error,) = errors_of(tmp_path, f'{SITE}[tracker]\n{key} = "{name}"')
    assert f"tracker.{key}: should be one part of a path: 1 to 64 characters" in error


@pytest.mark.parametrize(
    ("message", "text"),
    [
        *(
            ("collect_path: should not be one of batch, p.gif, analytics", f'collect_path = "{name}"')
            for name in ("batch", "p.gif", "analytics")
        ),
        ("collect_path: should not be the name of the script", 'collect_path = "t.js"'),
        ("collect_path: should not be the name of the script", 'script_path = "s.js"\ncollect_path = "s.js"'),
        ("collect_path: should not be the name of the script", 'script_path = "s.js"\ncollect_path = "t.js"'),
        ('script_path: should end in ".js", such as "t.js"; got "t"', 'script_path = "t"'),
        ('script_path: should end in ".js"', 'script_path = ".js"'),
        ('script_path: should end in ".js"', 'script_path = "t.JS"'),
        ('script_path: should not end in "-", 12 hex digits and ".js"', 'script_path = "t-0123456789ab.js"'),
        ('collect_path: should not end in "-", 12 hex digits and ".js"', 'collect_path = "t-0123456789ab.js"'),
        ("demo_dir: should be the path of a folder", 'demo_dir = "~/demo"'),
        ("demo_dir: should be the path of a folder, not a URL", 'demo_dir = "file:///demo"'),
        ("demo_dir: should be a string", "demo_dir = false"),
    ],
)
def test_setting_of_the_tracker_that_can_only_be_a_mistake_is_an_error(tmp_path: Path, message: str, text: str) -> None:
    (error,) = errors_of(tmp_path, f"{SITE}[tracker]\n{text}")
    assert message in error


def test_paths_of_the_tracker_may_be_set_to_their_defaults(tmp_path: Path) -> None:
    text = '[tracker]\nscript_path = "t.js"\ncollect_path = "e"'
    assert read(tmp_path, SITE) == read(tmp_path, SITE + text)
