"""`collector check-config`: one line for each error of a configuration file, and exit code 2."""

from pathlib import Path

import pytest

from tests.cli.in_process import Capture, run

GOOD = "[sites.demo]\n"


def test_valid_configuration_exits_0(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    assert run("check-config", file) == 0
    assert (f"{file}: valid; 1 site\n", "") == capsys.readouterr()


@pytest.mark.parametrize(
    ("server", "hint"),
    [
        (
            'unix_socket = "a.sock"',
            'server.trusted_proxies lacks "unix": clients that come through the Unix socket have ',
        ),
        ('unix_socket = "a.sock"\ntrusted_proxies = ["unix"]', ""),
        ('host = ""', "server.host and server.unix_socket are empty: "),
        ('host = ""\nunix_socket = "a.sock"\ntrusted_proxies = ["unix", "::1"]', ""),
    ],
)
def test_settings_that_may_surprise_are_valid_and_named(
    tmp_path: Path, capsys: Capture, server: str, hint: str
) -> None:
    file = tmp_path / "good.toml"
    file.write_text(f"[server]\n{server}\n{GOOD}")
    assert run("check-config", file) == 0
    out, err = capsys.readouterr()
    assert (f"{file}: valid; 1 site\n", bool(hint)) == (out, bool(err))
    assert err.startswith(f"{file}: {hint}" if hint else "")


# A file, and the start of each line that reports an error in it.
BAD_CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "no sites": ("", ["sites: missing; at least one site is needed"]),
    "not TOML": ("[sites.demo", ["is not TOML: "]),
    "unknown key": ("[server]\nprot = 80\n" + GOOD, ["server.prot: unknown key; did you mean port?"]),
    "unknown section": ("[storag]\n" + GOOD, ["storag: unknown key; did you mean storage?"]),
    "wrong type": ('[server]\nport = "80"\n' + GOOD, ["server.port: should be an integer"]),
    "out of range": ("[server]\nport = 70000\n" + GOOD, ["server.port: should be less than or equal to 65535"]),
    "Unix socket": (
        f'[server]\nunix_socket = "{"x" * 108}"\nunix_socket_mode = "999"\n{GOOD}',
        ["server.unix_socket: should have at most 107 bytes", "server.unix_socket_mode: should be three octal digits"],
    ),
    "abstract socket": ('[server]\nunix_socket = "@collector"\n' + GOOD, ["server.unix_socket: should be a path"]),
    "mode as a number": ("[server]\nunix_socket_mode = 660\n" + GOOD, ["server.unix_socket_mode: should be a string"]),
    "address header": (
        '[server]\nclient_ip_header = "X-Fowarded-For"\n' + GOOD,
        ["server.client_ip_header: should be one of X-Forwarded-For, Forwarded, X-Real-IP, CF-Connecting-IP"],
    ),
    "proxies": (
        '[server]\ntrusted_proxies = ["unix", "linux", "10.0.0.1/8"]\n' + GOOD,
        [
            'server.trusted_proxies.1: should be an address, a network, or "unix"',
            "server.trusted_proxies.2: has bits set",
        ],
    ),
    "bots": ('[sites.demo]\nbots = "block"\nrespect_dnt = 1\n', ["sites.demo.bots: ", "sites.demo.respect_dnt: "]),
    "no table": ("server = 3\n" + GOOD, ["server: should be a table; got 3"]),
    "site id": ('[sites."../x"]\n', ["sites.../x: a site id should be"]),
    "network": (
        '[sites.demo]\nexcluded_ips = ["10.0.0.0/8", "300.1.1.1"]\n',
        ["sites.demo.excluded_ips.1: "],
    ),
    "all of it": (
        '[server]\nport = -1\nhost = 5\n[storage]\nflush_interval_s = "60"\npartition_by = ["date", "site"]\n'
        "[sites.demo]\ntracking = 1\nexcluded_path = []\n",
        [
            "server.port: should be greater than or equal to 0",
            "server.host: should be a string; got 5",
            "storage.flush_interval_s: should be a number",
            'storage.partition_by: should be ["site", "date"] or ["date"]',
            "sites.demo.tracking: should be a boolean; got 1",
            "sites.demo.excluded_path: unknown key; did you mean excluded_paths?",
        ],
    ),
    "line break in a value": ('[storage]\ncompression = "zs\\ntd"\n' + GOOD, ["storage.compression: should be "]),
    "line break in a key": ('[storage]\n"com\\npression" = "zstd"\n' + GOOD, ["storage.com"]),
    "line break in a site": ('[sites."a\\nb"]\n', ["sites.a"]),
}


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_bad_configuration_exits_2_with_one_line_for_each_error(name: str, tmp_path: Path, capsys: Capture) -> None:
    text, expected = BAD_CONFIGURATIONS[name]
    file = tmp_path / "bad.toml"
    file.write_text(text)
    assert run("check-config", file) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert ("", len(expected)) == (out, len(lines)), err
    for start, line in zip(sorted(expected), sorted(lines), strict=True):
        assert line.startswith(f"collector: {file}: {start}")


def test_missing_configuration_exits_2(tmp_path: Path, capsys: Capture) -> None:
    for path, why in ((tmp_path / "nothing.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        assert run("check-config", path) == 2
        assert ("", f"collector: {path}: cannot be read: {why}\n") == capsys.readouterr()


def test_configuration_that_is_not_text_exits_2(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(b"\xff\xfe")
    assert run("check-config", file) == 2
    assert capsys.readouterr().err.startswith(f"collector: {file}: is not TOML: ")


def test_environment_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    monkeypatch.setenv("COLLECTOR__SERVER__PORT", "many")
    monkeypatch.setenv("COLLECTOR__SERVER__PROT", "80")
    assert run("check-config", file) == 2
    first, second = sorted(capsys.readouterr().err.splitlines())
    assert first.startswith("collector: COLLECTOR__SERVER__PORT: server.port: should be an integer")
    assert second.startswith("collector: COLLECTOR__SERVER__PROT: names no setting")
