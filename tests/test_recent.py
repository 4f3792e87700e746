"""The bounded cache, against a dict that never forgets."""

from hypothesis import given
from hypothesis import strategies as st

from collector.recent import Recent

KEYS = st.integers(0, 12)


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), KEYS), max_size=80))
def test_cache_is_bounded_and_never_wrong(most: int, steps: list[tuple[bool, int]]) -> None:
    """A found value is the last one put. An entry is found as long as fewer than `most` others were put or used."""
    cache: Recent[int, str] = Recent(most)
    last: dict[int, str] = {}
    used: list[int] = []  # keys, the last used at the end
    for number, (puts, key) in enumerate(steps):
        if puts:
            last[key] = str(number)
            cache.put(key, last[key])
        found = cache.get(key)
        others = used[used.index(key) + 1 :] if key in used else None
        if found is None:
            assert others is None or len(others) >= most
        else:
            assert last[key] == found
            used = [other for other in used if other != key] + [key]
        assert len(cache) <= 2 * most
        assert (key in cache) == (found is not None)


def test_entries_in_use_outlive_any_number_of_others() -> None:
    cache: Recent[int, str] = Recent(10)
    cache.put(-1, "used")
    for number in range(1_000):
        cache.put(number, "seldom")
        if number % 9 == 0:
            assert "used" == cache.get(-1)
    assert cache.get(0) is None
    assert 10 < len(cache) <= 20
