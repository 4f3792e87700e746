"""Keys of senders that are no browsers: servers and imports. The configuration holds only their fingerprints."""

import hashlib
import re

FINGERPRINT = re.compile("sha256:[0-9a-f]{64}")


def fingerprint(key: str) -> str:
    """The fingerprint of a key, as the setting `sites.<id>.keys` lists it.

    A plain hash is enough: a key has 256 random bits, so no dictionary holds it.
    """
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"
