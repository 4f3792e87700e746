"""Counts in messages."""

import pytest

from collector.wording import count


@pytest.mark.parametrize(("number", "text"), [(0, "0 parts"), (1, "1 part"), (2, "2 parts"), (12_000, "12000 parts")])
def test_only_one_is_singular(number: int, text: str) -> None:
    assert text == count(number, "part")


def test_thousands_are_grouped_on_request() -> None:
    assert "12,000 events" == count(12_000, "event", ",")
