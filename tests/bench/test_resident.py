"""What resident memory holds."""

from bench.resident import resident

SMAPS = """\
55d0c0a00000-55d0c0a28000 r--p 00000000 fe:01 1234                       /usr/bin/python3.11
Rss:                 100 kB
Anonymous:             0 kB
55d0c2000000-55d0c2800000 rw-p 00000000 00:00 0                          [heap]
Rss:                  20 kB
7f0000000000-7f0000100000 rw-p 00000000 00:00 0
Rss:                   3 kB
"""


def test_memory_is_told_apart_by_what_holds_it() -> None:
    assert {"files": 100 * 1024, "heap": 20 * 1024, "maps": 3 * 1024} == resident(SMAPS)
