"""Enrichment: event times as timestamps, and client addresses reduced to what may be stored."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pandas as pd  # type: ignore[import-untyped]  # pandas ships no types
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.clock import US_PER_DAY
from collector.ingest.daily_key import DailyKeys
from collector.ingest.enrich import client_ip_policy, event_time_us, needs_keys
from tests.ingest.oracle import EPOCH, kept_of, moment_of
from tests.support import NOON_US, FakeClock

LAST_SETTING = datetime(2232, 4, 18, tzinfo=UTC)  # Linux refuses to set a clock any later (TIME_SETTOD_SEC_MAX)
TEN = datetime(2026, 5, 12, 10, tzinfo=UTC)
ARABIC_INDIC = {ord("0") + digit: 0x660 + digit for digit in range(10)}


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _words(us: int) -> str:
    return f"{EPOCH + timedelta(microseconds=us):%Y-%m-%dT%H:%M:%S.%fZ}"


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (TEN, "2026-05-12T10:00:00Z"),
        (TEN, "2026-05-12t10:00:00z"),
        (TEN, "2026-05-12 10:00:00Z"),
        (TEN, "2026-05-12T10:00:00"),
        (TEN, "2026-05-12 10:00:00"),
        (TEN, "2026-05-12T12:00:00+02:00"),
        (TEN, "2026-05-12T04:30:00-05:30"),
        (TEN, "2026-05-12T10:00:00+00:00"),
        (TEN, "2026-05-12T10:00:00-00:00"),
        (TEN, "2026-05-13T09:59:00+23:59"),
        (TEN + timedelta(microseconds=500_000), "2026-05-12T10:00:00.5Z"),
        (TEN + timedelta(microseconds=123_000), "2026-05-12T10:00:00.123"),
        (TEN + timedelta(microseconds=123_456), "2026-05-12T12:00:00.123456+02:00"),
        (TEN + timedelta(microseconds=123_456), "2026-05-12T10:00:00.123456999Z"),
        (TEN + timedelta(microseconds=999_999), f"2026-05-12T10:00:00.{'9' * 1000}Z"),
        (datetime(2024, 2, 29, tzinfo=UTC), "2024-02-29T00:00:00Z"),
        (EPOCH, "1970-01-01T00:00:00Z"),
        (EPOCH - timedelta(microseconds=1), "1969-12-31T23:59:59.999999999Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_date_time_is_microseconds_since_the_epoch(moment: datetime, words: str) -> None:
    assert _us(moment) == event_time_us(words, _us(moment))
    assert moment == moment_of(words), "the oracle"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "now",
        "1778580000",
        "1778580000000",
        "-1",
        "2026-05-12",
        "2026-05-12T",
        "2026-05-12T10:00",
        "2026-05-12T10:00Z",
        "20260512T100000Z",
        "2026-W20-2T10:00:00Z",
        "2026-132T10:00:00Z",
        "2026-05-12T10:00:00.Z",
        "2026-05-12T10:00:00,5Z",
        "2026-05-12T10:00:00+02",
        "2026-05-12T10:00:00+0200",
        "2026-05-12T10:00:00+02:00:30",
        "2026-05-12T10:00:00+24:00",
        "2026-05-12T10:00:00+02:60",
        "2026-05-12T10:00:00 Z",
        "2026-05-12T10:00:00Z ",
        " 2026-05-12T10:00:00Z",
        "2026-05-12T10:00:00Z\n",
        "2026-05-12T10:00:00\n",
        "2026-05-12T10:00:00Z\0",
        "2026-05-12\nT10:00:00Z",
        "2026-05-12_10:00:00Z",
        "2026-5-12T10:00:00Z",
        "2026-02-29T10:00:00Z",
        "2026-13-01T10:00:00Z",
        "2026-05-00T10:00:00Z",
        "2026-05-12T24:00:00Z",
        "2026-05-12T24:00:00.000Z",
        "2026-05-12x10:00:00.123Z",
        "2026-05-12T10:00:00,123Z",
        "2026-05-12T13:Z\0:07.681Z",
        "2023-02-19T16:40:00.Z\0006Z",
        "2026-W20-2T10:00:00.123Z",
        "2026-05-12T10:60:00Z",
        "2016-12-31T23:59:60Z",
        "2016-12-31T23:59:60.000Z",
        "2026-05-12T10:60:00.000Z",
        "2016-12-31T23:59:61Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "-2026-05-12T10:00:00Z",
        "2026-05-12T10:00:00Z".translate(ARABIC_INDIC),
        "2026-05-12T10:00:0\u0660Z",
        "\uff12026-05-12T10:00:00Z",
        "Tue, 12 May 2026 10:00:00 GMT",
        "2026-05-12T10:00:00Europe/Paris",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
    ],
)
def test_text_that_is_not_a_date_time_of_the_years_1_to_9999_is_none(words: str) -> None:
    assert event_time_us(words, NOON_US) is None
    assert moment_of(words) is None, "the oracle"


@given(st.dictionaries(st.integers(0, 23), st.sampled_from("0123456789 +-_.,:TtZzWé\u0660\0\n"), max_size=4))
def test_times_like_those_of_javascript_agree_with_the_oracle(changes: dict[int, str]) -> None:
    words = "".join(changes.get(at, char) for at, char in enumerate("2026-05-12T10:00:00.123Z"))
    moment = kept_of(moment_of(words), NOON_US)
    assert (moment and _us(moment)) == event_time_us(words, NOON_US)


DIGITS = st.text("0123456789", min_size=1, max_size=9)


@given(
    st.datetimes(),
    st.sampled_from("Tt "),
    st.just("") | DIGITS.map(".{}".format),
    st.sampled_from(["", "Z", "z"]) | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)),
)
def test_time_agrees_with_independent_arithmetic(
    moment: datetime, separator: str, fraction: str, zone: str | timedelta
) -> None:
    if isinstance(zone, timedelta):
        sign, minutes = "-" if zone < timedelta() else "+", abs(zone) // timedelta(minutes=1)
        zone = f"{sign}{minutes // 60:02}:{minutes % 60:02}"
    words = f"{moment:%Y-%m-%d}".rjust(10, "0") + separator + f"{moment:%H:%M:%S}{fraction}{zone}"
    expected = moment_of(words)
    assert (expected and _us(expected)) == event_time_us(words, _us(expected or TEN))


@given(st.text("0123456789-:.TZ+ ", max_size=30))
def test_text_is_a_time_exactly_if_the_oracle_agrees(words: str) -> None:
    moment = moment_of(words)
    assert (moment is None) == (event_time_us(words, _us(moment or TEN)) is None)


@pytest.mark.parametrize(
    ("received", "oldest"),
    [
        ("2026-05-28T20:26:40.000001Z", "2016-05-28T20:26:40.000001Z"),
        ("2024-02-29T23:59:59.999999Z", "2014-02-28T23:59:59.999999Z"),  # as in SQL: 28 February, not 1 March
        ("2024-03-01T00:00:00Z", "2014-03-01T00:00:00Z"),
        ("2026-02-28T12:00:00Z", "2016-02-28T12:00:00Z"),
        ("2026-03-01T12:00:00Z", "2016-03-01T12:00:00Z"),
        ("2110-02-28T12:00:00Z", "2100-02-28T12:00:00Z"),  # 2100 is no leap year
        ("2110-03-01T12:00:00Z", "2100-03-01T12:00:00Z"),
        ("2104-02-29T12:00:00Z", "2094-02-28T12:00:00Z"),
        ("1970-01-01T00:00:00Z", "1960-01-01T00:00:00Z"),  # a machine without a clock
    ],
)
def test_time_is_kept_from_ten_calendar_years_before_its_receipt_to_a_day_after(received: str, oldest: str) -> None:
    """Exact to the microsecond at both ends."""
    received_us, oldest_us = _us(datetime.fromisoformat(received)), _us(datetime.fromisoformat(oldest))
    for kept_us in (oldest_us, oldest_us + 1, received_us, received_us + US_PER_DAY - 1, received_us + US_PER_DAY):
        assert kept_us == event_time_us(_words(kept_us), received_us)
    for hostile_us in (oldest_us - 1, oldest_us - US_PER_DAY, received_us + US_PER_DAY + 1):
        assert event_time_us(_words(hostile_us), received_us) is None


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC)),
    st.integers(-3_660, 3) | st.sampled_from([1, -3_651, -3_652, -3_653]),
    st.integers(-1, 1),
)
def test_limits_of_kept_times_agree_with_the_oracles_calendar(received: datetime, days: int, offset_us: int) -> None:
    moment = received + timedelta(days=days, microseconds=offset_us)
    kept = kept_of(moment, _us(received))
    assert (kept and _us(kept)) == event_time_us(_words(_us(moment)), _us(received))


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]))
def test_no_receipt_time_in_a_record_raises(received_us: int, words: str) -> None:
    """A record can hold any 64-bit receipt time, even one beyond the years that `date` supports."""
    found = event_time_us(words, received_us)
    assert found is None or -3_653 * US_PER_DAY <= found - received_us <= US_PER_DAY


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Niue", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("received", [datetime(1970, 1, 1, tzinfo=UTC), TEN, LAST_SETTING])
def test_pandas_can_process_the_column_whatever_is_sent(received: datetime, zone: str) -> None:
    """Events received at one moment: convert zones, resample, use nanoseconds, and convert back to Python."""
    sent = [
        *("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1600-01-01T00:00:00Z", "2262-04-12T00:00:00Z"),
        *(_words(_us(received) + days * US_PER_DAY) for days in (-3_653, -3_652, -3_651, -1, 0, 1, 2)),
    ]
    found = [event_time_us(words, _us(received)) for words in sent]
    column = pd.Series(pa.array(found, pa.timestamp("us", "UTC")).to_pandas())
    kept = column.dropna()
    assert 4 <= len(kept) < len(sent)
    assert len(kept) == len(kept.dt.tz_convert(zone).dt.tz_localize(None).dt.strftime("%Y-%m-%d"))
    assert len(kept) == len(kept.astype("datetime64[ns, UTC]").dt.floor("D"))
    for step in ("D", "MS", "YS"):
        for times in (kept, kept.dt.tz_convert(zone)):
            assert len(kept) == pd.Series(1, index=pd.DatetimeIndex(times)).resample(step).sum().sum()
    assert all(time.year for time in kept.dt.to_pydatetime())


@pytest.fixture
def keys(tmp_path: Path, clock: FakeClock) -> DailyKeys:
    return DailyKeys(tmp_path, clock)


@pytest.mark.parametrize(
    ("kept", "policy", "address"),
    [
        (None, "none", "192.0.2.7"),
        (None, "none", "2001:db8::7"),
        ("192.0.2.0", "truncate", "192.0.2.7"),
        ("192.0.2.0", "truncate", "192.0.2.255"),
        ("2001:db8:1::", "truncate", "2001:db8:1:2:3:4:5:6"),
        ("::", "truncate", "::1"),
        ("192.0.2.7", "full", "192.0.2.7"),
        ("2001:db8::7", "full", "2001:db8:0::7"),
    ],
)
def test_policy_keeps_only_its_share_of_the_address(
    keys: DailyKeys, kept: str | None, policy: str, address: str
) -> None:
    made = client_ip_policy(policy, keys)
    assert kept == made(ip_address(address), NOON_US)
    assert not needs_keys(made)


def test_unknown_policy_is_an_error(keys: DailyKeys) -> None:
    with pytest.raises(ValueError, match="unknown client IP policy all: use none, truncate, hash or full"):
        client_ip_policy("all", keys)
