"""Keys of senders that are no browsers, such as servers and imports.

A sender has the key's text. The configuration has only its fingerprint, so who reads the configuration cannot send.
A fast hash is enough: a key is 32 random bytes, which nobody can guess, unlike a password.
"""

import hashlib
import re
import secrets
from typing import Final

# Programs that look for leaked secrets recognise a key by its prefix.
PREFIX: Final = "ck_"
KEY_BYTES: Final = 32

FINGERPRINT: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
"""A fingerprint, as `fingerprint` returns it. Use `fullmatch`."""


def new_key() -> str:
    """A new key: 46 characters that are safe in URLs, headers and shells."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def fingerprint(key: str) -> str:
    """What `sites.<id>.keys` has of this key: "sha256:" and the SHA-256 of its UTF-8, as 64 lower-case hex digits.

    Bytes of a header that are not UTF-8 are surrogates in `key`, and count as those bytes.
    """
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"
