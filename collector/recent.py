"""A bounded cache, which keeps the entries used lately."""

from typing import Final, Generic, TypeVar, final

Key = TypeVar("Key")
Value = TypeVar("Value")


@final
class Recent(Generic[Key, Value]):
    """Holds from `most` to twice `most` entries once it is full. No value may be None.

    There are two generations. New entries enter the young one. When that is full, it becomes the old one, and the
    previous old one is dropped. An entry found in the old generation enters the young one again. So a hit costs one
    look-up in a dict, a third of what `functools.lru_cache` takes, and entries in use outlive any number of others.
    """

    def __init__(self, most: int) -> None:
        self.most: Final = most
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __contains__(self, key: object) -> bool:
        return key in self._young or key in self._old

    def get(self, key: Key) -> Value | None:
        """The value, or None if it is unknown or dropped."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Remember a value."""
        if len(self._young) >= self.most:
            self._old, self._young = self._young, {}
        self._young[key] = value
