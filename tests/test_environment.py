"""Environment variables that override single settings, and variables that look as if they did."""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from collector.config import Config, SiteSettings
from tests import configs
from tests.configs import SITE

Load = Callable[..., Config]


@pytest.fixture
def read(tmp_path: Path) -> Load:
    return partial(configs.read, tmp_path)


@pytest.fixture
def errors(tmp_path: Path) -> Callable[..., list[str]]:
    return partial(configs.errors_of, tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "expected", "name", "value"),
    [
        ("server", "port", 81, "SERVER__PORT", "81"),
        ("server", "host", "::1", "SERVER__HOST", "::1"),
        ("server", "host", "7", "SERVER__HOST", "7"),
        ("server", "body_timeout_s", 2.5, "SERVER__BODY_TIMEOUT_S", "2.5"),
        ("server", "trusted_proxies", (ip_network("::1/128"),), "SERVER__TRUSTED_PROXIES", '["::1"]'),
        ("server", "trusted_proxies", (), "SERVER__TRUSTED_PROXIES", "[]"),
        ("storage", "data_dir", Path("/srv/x y"), "STORAGE__DATA_DIR", "/srv/x y"),
        ("storage", "partition_by", ("date",), "STORAGE__PARTITION_BY", '["date"]'),
        ("storage", "compression", "none", "STORAGE__COMPRESSION", "none"),
        ("rate_limit", "burst", 5, "RATE_LIMIT__BURST", "5"),
        ("privacy", "client_ip", "full", "PRIVACY__CLIENT_IP", "full"),
        ("tracker", "collect_path", "7", "TRACKER__COLLECT_PATH", "7"),
        ("tracker", "demo_dir", "demo/shop", "TRACKER__DEMO_DIR", "demo/shop"),
    ],
)
def test_variable_overrides_one_key(
    read: Load, section: str, key: str, expected: object, name: str, value: str
) -> None:
    text = f'{SITE}[server]\nport = 1\nhost = "x"\ntrusted_proxies = ["10.0.0.0/8"]'
    settings = read(text).model_dump()
    settings[section][key] = expected
    assert settings == read(text, {f"COLLECTOR__{name}": value, "COLLECTOR_SERVER_PORT": "2", "HOME": "/"}).model_dump()


@pytest.mark.parametrize(
    ("expected", "environ"),
    [
        ({"demo": SiteSettings(tracking=False)}, {"COLLECTOR__SITES__demo__TRACKING": "false"}),
        (
            {"demo": SiteSettings(), "a__B-1": SiteSettings(allow_localhost=True)},
            {"COLLECTOR__SITES__a__B-1__ALLOW_LOCALHOST": "true"},
        ),
        (
            {"demo": SiteSettings(excluded_paths=("/a", "/b*"))},
            {"COLLECTOR__SITES__demo__EXCLUDED_PATHS": '["/a", "/b*"]'},
        ),
    ],
)
def test_variable_overrides_a_site_setting(read: Load, expected: dict[str, Any], environ: dict[str, str]) -> None:
    assert expected == read(SITE, environ).sites


def test_variables_alone_can_define_the_sites(read: Load) -> None:
    assert {"shop": SiteSettings(strict=True)} == read("", {"COLLECTOR__SITES__shop__STRICT": "true"}).sites


@pytest.mark.parametrize(
    ("message", "name", "value"),
    [
        *(
            ("names no setting; it should be COLLECTOR__<SECTION>__<KEY>", name, "1")
            for name in ("SERVER__PROT", "SERVER", "", "__PORT", "NO__SUCH", "SITES__TRACKING", "SITES__demo__PROT")
        ),
        # The name that was probably meant.
        (
            "names no setting; it should be COLLECTOR__<SECTION>__<KEY>, here COLLECTOR__SITES__<id>__",
            "SITES__demo",
            "1",
        ),
        ("did you mean COLLECTOR__SERVER__PORT?", "SERVER__PROT", "1"),
        ("did you mean COLLECTOR__SERVER__PORT?", "SERVER_PORT", "1"),
        ("did you mean COLLECTOR__SITES__demo__TRACKING?", "SITE__demo__TRACKING", "1"),
        ("did you mean COLLECTOR__SITES__demo__TRACKING?", "SITES__demo__TRACKIN", "1"),
        # Lists are written as in the file.
        *(
            (f"server.trusted_proxies: should be a list, written {right}; got ", "SERVER__TRUSTED_PROXIES", value)
            for right, value in (
                ('["10.0.0.1"]', "10.0.0.1"),
                ('["10.0.0.0/8", "::1"]', "10.0.0.0/8, ::1"),
                ('["10.0.0.1"]', "[10.0.0.1]"),
                ('["10.0.0.1"]', "'10.0.0.1'"),
                ("[]", ""),
            )
        ),
        ('should be a list, written ["/admin/*"]; got ', "SITES__demo__EXCLUDED_PATHS", "/admin/*"),
        ("sites.demo.tracking: should be a boolean, written false; got ", "SITES__demo__TRACKING", "False"),
        # Docker keeps the quotes of an --env-file.
        *(
            (f"{key}: should be written without quotes; got {value}", name, value)
            for key, name, value in (
                ("storage.data_dir", "STORAGE__DATA_DIR", '"/srv/events"'),
                ("storage.compression", "STORAGE__COMPRESSION", "'zstd'"),
                ("server.host", "SERVER__HOST", '""'),
            )
        ),
        # A site id has no dots.
        ("such as www-example-com", "SITES__www.example.com__TRACKING", "true"),
        ("server.port: should be an integer", "SERVER__PORT", "http"),
        ("server.port: should be an integer", "SERVER__PORT", ""),
        ("server.port: should be", "SERVER__PORT", "1\nother = 2"),
        ("server.port: should be", "SERVER__PORT", "70000"),
        pytest.param("server.port: should be", "SERVER__PORT", "1" * 5_000, id="5000-digits"),
        ("server.trusted_proxies: should be a list", "SERVER__TRUSTED_PROXIES", "10.0.0.0/8"),
        ("server.trusted_proxies.0: should be an address", "SERVER__TRUSTED_PROXIES", '["x"]'),
        ("sites.demo.tracking: should be a boolean", "SITES__demo__TRACKING", "yes"),
        ("sites.a b: a site id should be", "SITES__a b__TRACKING", "true"),
        ("storage.durability: should be", "STORAGE__DURABILITY", "disk"),
        ("storage.partition_by: should be", "STORAGE__PARTITION_BY", '["date", "site"]'),
    ],
)
def test_error_names_the_variable(errors: Callable[..., list[str]], message: str, name: str, value: str) -> None:
    (error,) = errors(SITE, {f"COLLECTOR__{name}": value})
    assert error.startswith(f"COLLECTOR__{name}: ")
    assert message in error


def test_file_error_at_the_key_of_a_variable_is_reported(errors: Callable[..., list[str]]) -> None:
    (error,) = errors("server = 1\n" + SITE, {"COLLECTOR__SERVER__PORT": "81"})
    assert error.endswith("server: should be a table; got 1")


@pytest.mark.parametrize(
    ("message", "text", "name"),
    [
        *(
            (
                f'names the site "{site}", but the file has "demo" (case and hyphens matter); use '
                f"COLLECTOR__SITES__demo__TRACKING, or add [sites.{site}] to the file",
                SITE,
                site,
            )
            for site in ("DEMO", "Demo", "dEMO")
        ),
        ("use COLLECTOR__SITES__DEMO__TRACKING,", "[sites.DEMO]", "demo"),
        ("use COLLECTOR__SITES__my-shop__TRACKING,", "[sites.my-shop]", "my_shop"),
        ("use COLLECTOR__SITES__my-shop__TRACKING,", "[sites.my-shop]", "MY_SHOP"),
    ],
)
def test_variable_with_an_easily_confused_site_id_is_an_error(
    errors: Callable[..., list[str]], message: str, text: str, name: str
) -> None:
    """It would silently create a second site and leave the first unchanged."""
    (error,) = errors(text, {f"COLLECTOR__SITES__{name}__TRACKING": "false"})
    assert error.startswith(f"COLLECTOR__SITES__{name}__TRACKING: ")
    assert message in error


def test_variables_with_two_easily_confused_site_ids_are_an_error(errors: Callable[..., list[str]]) -> None:
    environ = {"COLLECTOR__SITES__DEMO__TRACKING": "false", "COLLECTOR__SITES__demo__STRICT": "true"}
    (error,) = errors("", environ)
    assert error.startswith(
        'COLLECTOR__SITES__demo__STRICT: names the site "demo", but COLLECTOR__SITES__DEMO__TRACKING has "DEMO"'
    )


def test_site_ids_in_the_file_may_be_similar(read: Load) -> None:
    environ = {"COLLECTOR__SITES__DEMO__TRACKING": "false", "COLLECTOR__SITES__de_mo__STRICT": "true"}
    assert {
        "demo": SiteSettings(),
        "DEMO": SiteSettings(tracking=False),
        "de-mo": SiteSettings(),
        "de_mo": SiteSettings(strict=True),
    } == read("[sites.demo]\n[sites.DEMO]\n[sites.de-mo]\n[sites.de_mo]", environ).sites


def test_variable_may_define_a_site_with_a_distinct_id(read: Load) -> None:
    environ = {"COLLECTOR__SITES__DEMO2__TRACKING": "false", "COLLECTOR__SITES__DEMO2__STRICT": "true"}
    assert {"demo": SiteSettings(), "DEMO2": SiteSettings(tracking=False, strict=True)} == read(SITE, environ).sites


@pytest.mark.parametrize(
    "name", ["collector__server__port", "Collector__SERVER__PORT", "COLLEcTOR__SITES__demo__STRICT"]
)
def test_prefix_in_lower_case_is_an_error(errors: Callable[..., list[str]], name: str) -> None:
    assert [f"{name}: should begin with COLLECTOR__, in capitals"] == errors(SITE, {name: "1"})


@pytest.mark.parametrize("name", ["COLLECTOR__server__port", "COLLECTOR__Server__Port"])
def test_section_and_key_may_be_in_any_case_but_set_only_once(
    read: Load, errors: Callable[..., list[str]], name: str
) -> None:
    assert 81 == read(SITE, {name: "81"}).server.port
    assert [f"{name}: sets the same key as COLLECTOR__SERVER__PORT; remove one of them"] == errors(
        SITE, {name: "81", "COLLECTOR__SERVER__PORT": "82"}
    )


@pytest.mark.parametrize(
    "name", ["COLLECTOR_PORT", "COLLECTOR_SERVICE_HOST", "COLLECTOR_UNPACK_DIR", "MY_COLLECTOR__X__Y"]
)
def test_other_variables_are_ignored(read: Load, name: str) -> None:
    """Kubernetes sets such variables for a service named `collector`."""
    assert read() == read(SITE, {name: "tcp://10.0.0.1:80"})
