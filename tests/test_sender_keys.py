"""Keys of senders, and their fingerprints."""

import hashlib

from collector.sender_keys import FINGERPRINT, fingerprint, new_key


def test_fingerprint_is_the_sha256_of_the_text() -> None:
    """As `printf %s abc | sha256sum` prints it (FIPS 180-2, B.1)."""
    expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert expected == fingerprint("abc")
    assert f"sha256:{hashlib.sha256('é'.encode()).hexdigest()}" == fingerprint("é")


def test_bytes_that_are_not_utf8_have_a_fingerprint_too() -> None:
    """A header may bring any bytes."""
    text = b"\xff".decode("utf-8", "surrogateescape")
    assert f"sha256:{hashlib.sha256(bytes([255])).hexdigest()}" == fingerprint(text)


def test_format_matches_fingerprints_only() -> None:
    good = fingerprint("abc")
    assert FINGERPRINT.fullmatch(good)
    for bad in (
        "",
        "abc",
        good[:-1],
        good + "0",
        good.upper(),
        good.replace("sha256", "sha512"),
        good + "\n",
        new_key(),
    ):
        assert not FINGERPRINT.fullmatch(bad), bad


def test_keys_differ_and_are_safe_in_headers_and_shells() -> None:
    keys = {new_key() for _ in range(100)}
    assert 100 == len(keys)
    for key in keys:
        assert (46, "ck_", True) == (len(key), key[:3], key.replace("-", "").replace("_", "").isalnum())
