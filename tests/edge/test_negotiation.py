"""Negotiation: RFC 9110's rules for encodings and entity tags."""

import pytest

from collector.edge.negotiation import best_encoding, has_already


@pytest.mark.parametrize(
    ("expected", "accepted"),
    [
        ("br", "gzip, deflate, br, zstd"),
        ("br", "br"),
        ("br", "BR"),
        ("br", "*"),
        ("br", "gzip,br"),
        ("br", " gzip ;q=1.0 ,\tbr ; q=1"),
        ("br", "br;Q=0.5, gzip;q=0.5"),
        ("br", "br;q=0.5, identity;q=0.5"),
        ("br", "*;q=0.001"),
        ("br", "gzip;q=0, *"),
        ("br", "identity;q=0, *"),
        ("br", "br;q=1.000, gzip;q=1.000"),
        ("gzip", "gzip"),
        ("gzip", "x-gzip"),
        ("gzip", "br;q=0, *"),
        ("gzip", "br;q=0.000, gzip;q=0.001"),
        ("gzip", "br;q=0.5, gzip;q=0.6"),
        ("gzip", "gzip, br;q=x"),
        ("gzip", "gzip, br;q=1.5"),
        ("gzip", "gzip, br;q=-1"),
        ("gzip", "gzip, br;q=0.1234"),
        ("gzip", "gzip, br x"),
        ("gzip", "gzip, br;level=1"),
        ("gzip", ", ,gzip,"),
        ("gzip", "gzip, *;q=0"),
        ("identity", None),
        ("identity", ""),
        ("identity", " "),
        ("identity", "zstd"),
        ("identity", "identity"),
        ("identity", "identity, gzip;q=0.9"),
        ("identity", "*;q=0"),
        ("identity", "br;q=0, gzip;q=0"),
        ("identity", "identity;q=0"),
        ("identity", "*;q=0, identity;q=0.5"),
        ("identity", "brotli, gzipped, xgzip"),
        ("identity", "br/gzip"),
        ("identity", "\udcff"),
        ("identity", ";q=1"),
    ],
)
def test_best_encoding_is_that_of_the_highest_weight(expected: str, accepted: str | None) -> None:
    """Of equal ones brotli, then gzip, then identity. What cannot be read is skipped."""
    assert expected == best_encoding(accepted, ["br", "gzip"])


def test_file_without_encodings_is_always_identity() -> None:
    for accepted in (None, "", "br", "*", "identity;q=0"):
        assert "identity" == best_encoding(accepted, [])


@pytest.mark.parametrize(
    ("expected", "if_none_match"),
    [
        (True, '"a1"'),
        (True, 'W/"a1"'),
        (True, ' "a1" '),
        (True, '"x", "a1"'),
        (True, '"x","a1","y"'),
        (True, '"x,y" , W/"a1"'),
        (True, "*"),
        (True, " * "),
        (False, None),
        (False, ""),
        (False, "a1"),
        (False, '"a"'),
        (False, '"a1x"'),
        (False, '"A1"'),
        (False, '"*"'),
        (False, '"xa1"'),
        (False, "\udcff"),
    ],
)
def test_entity_tags_are_compared_weakly(expected: bool, if_none_match: str | None) -> None:
    assert expected == has_already(if_none_match, '"a1"')
