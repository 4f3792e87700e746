"""Paths are percent-decoded once, as UTF-8; escapes that do not form a character stay as they are."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.paths import decoded, pieces


@pytest.mark.parametrize(
    ("expected", "path"),
    [
        ("/büro", "/büro"),
        ("/büro", "/b%C3%BCro"),
        ("/büro", "/b%c3%bCro"),
        ("/a b", "/a%20b"),
        ("/a+b", "/a+b"),
        ("/a+b", "/a%2Bb"),
        ("/a/b", "/a%2Fb"),
        ("/😀", "/%F0%9F%98%80"),
        ("/?#*", "/%3F%23%2A"),
        ("/\0\n", "/%00%0A"),
        # Once.
        ("/%41", "/%2541"),
        ("/100%", "/100%25"),
        # Invalid escapes stay, and so does each escape that does not form a character.
        ("/%", "/%"),
        ("/%4", "/%4"),
        ("/%zz", "/%zz"),
        ("/%4gA", "/%4g%41"),
        ("/%%A", "/%%%41"),
        ("/ü%ff", "/%C3%BC%ff"),
        ("/%FFü%fF", "/%FF%C3%BC%fF"),
        ("/%C3", "/%C3"),
        ("/%C3x", "/%C3x"),
        ("/%C3x", "/%C3%78"),
        ("/%e2%82", "/%e2%82"),
        ("/%BC%c3ü", "/%BC%c3%C3%BC"),
        ("/%F0%9F%98A", "/%F0%9F%98%41"),
        # Invalid UTF-8: overlong, a surrogate, beyond Unicode.
        ("/%C0%AF", "/%C0%AF"),
        ("/%ED%A0%80", "/%ED%A0%80"),
        ("/%F4%90%80%80", "/%F4%90%80%80"),
        # Unicode is not normalised: u and a combining diaeresis stay two characters.
        ("/bu\u0308ro", "/bu%CC%88ro"),
        # Digits of other scripts are not hexadecimal.
        ("/%٤١", "/%٤١"),
        ("", ""),
    ],
)
def test_decoded(expected: str, path: str) -> None:
    assert expected == decoded(path)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_undoes_one_encoding(text: str) -> None:
    assert text == decoded(quote(text, safe=""))
    assert quote(text, safe="") == decoded(quote(quote(text, safe=""), safe=""))


@given(st.binary(max_size=12))
def test_invalid_bytes_stay_escaped_one_by_one(data: bytes) -> None:
    """The expected result comes from Python's decoder, with every byte that it rejects escaped again."""
    path = "".join(f"%{byte:02x}" for byte in data)
    expected = "".join(
        f"%{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else char
        for char in data.decode("utf-8", "surrogateescape")
    )
    assert expected == decoded(path)


@pytest.mark.parametrize(
    ("expected", "path"),
    [
        ("%ff" * 1_000_000, "%ff" * 1_000_000),
        ("%" * 1_000_000, "%" * 1_000_000),
        ("ü%ff" * 500_000, "%C3%BC%ff" * 500_000),
    ],
    ids=["bad", "bare", "mixed"],
)
def test_long_path_is_decoded_in_linear_time(expected: str, path: str) -> None:
    """With a quadratic cost this test would take hours."""
    is_right = expected == decoded(path)  # outside the assert, where pytest would compute a diff of megabytes
    assert is_right


@pytest.mark.parametrize(
    ("expected", "setting"),
    [
        (("/admin",), "/admin"),
        (("/admin/", ""), "/admin/*"),
        (("/b*c", "?"), "/b%2Ac*%3F"),
        (("/b%C3", ""), "/b%C3*"),
    ],
)
def test_setting_is_split_at_its_stars_before_it_is_decoded(expected: tuple[str, ...], setting: str) -> None:
    assert expected == pieces(setting)
